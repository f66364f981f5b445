//! What a gateway would refuse of each item is refused once, and endpoints are walked in a circle.

use super::*;
use crate::in_words;

fn gateway() -> Connection {
    let channel = tonic::transport::Endpoint::from_static("http://nowhere").connect_lazy();
    Connection { name: "gw".to_owned(), channel }
}

#[tokio::test]
async fn the_model_is_served_and_takes_as_many_tokens() {
    let model = |name: &&str| v1::Model { name: (*name).to_owned(), max_length: 100, ..v1::Model::default() };
    let choose = |names: &[&str], model_name: &str, max_length| {
        let options = v1::Options { model: model_name.to_owned(), max_length, ..v1::Options::default() };
        let chosen = gateway().choose(names.iter().map(model).collect(), &options);
        chosen.map(|model| model.name).map_err(|error| error.to_string())
    };
    assert_eq!(choose(&["a"], "", 0).unwrap(), "a");
    assert_eq!(choose(&["a", "b"], "b", 100).unwrap(), "b");
    assert_eq!(choose(&["a", "b"], "c", 0).unwrap_err(), "gw: the model c is not served: name one of a, b");
    assert_eq!(choose(&["a", "b"], "", 0).unwrap_err(), "gw: several models are served: name one of a, b");
    assert_eq!(choose(&[], "", 0).unwrap_err(), "gw: no model is served");
    let problem = choose(&["a"], "", 101).unwrap_err();
    assert!(
        problem.ends_with("101 tokens of a conversation are more than the model's limit of 100 tokens"),
        "{problem}"
    );
}

#[tokio::test]
async fn endpoints_are_walked_in_a_circle() {
    let network = Network::tcp(None, None);
    let list = ["127.0.0.1:1", "127.0.0.2:1"].map(|address| Endpoint::new(address, network.clone(), address));
    let mut endpoints = Endpoints::new(list.to_vec()).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let Err((name, status)) = endpoints.dial().await else { panic!("nobody listens there") };
        assert!(in_words(&status).contains("refused"), "{status}");
        seen.push(name);
    }
    assert_eq!(seen, ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.1:1"]);
    assert!(Endpoints::new(Vec::new()).is_err());
}
