//! What a gateway would refuse of each line is refused once.

use tonic::Code;

use super::*;

fn served(names: &[&str]) -> Vec<v1::Model> {
    let model = |name: &&str| v1::Model { name: (*name).to_owned(), max_length: 100, ..v1::Model::default() };
    names.iter().map(model).collect()
}

#[test]
fn the_model_is_served_and_takes_as_many_tokens() {
    let checked = |names: &[&str], model: &str, max_length| {
        let options = v1::Options { model: model.to_owned(), max_length, ..v1::Options::default() };
        check(&served(names), &options).map_err(|status| (status.code(), status.message().to_owned()))
    };
    assert_eq!(checked(&["a"], "", 0), Ok(()));
    assert_eq!(checked(&["a", "b"], "b", 100), Ok(()));
    let (code, problem) = checked(&["a", "b"], "c", 0).unwrap_err();
    assert_eq!(code, Code::NotFound);
    assert_eq!(problem, "--model c is not served; --model names one of a, b");
    let (code, problem) = checked(&["a", "b"], "", 0).unwrap_err();
    assert_eq!((code, &*problem), (Code::InvalidArgument, "--model names one of a, b"));
    assert_eq!(checked(&[], "", 0).unwrap_err().0, Code::NotFound);
    let (_, problem) = checked(&["a"], "", 101).unwrap_err();
    assert_eq!(problem, "--max-length 101 is more than the model's limit of 100 tokens");
}
