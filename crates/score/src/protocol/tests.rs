//! Neighbouring versions talk.

use super::*;

fn versions(lowest: u32, highest: u32) -> Versions {
    Versions { lowest, highest }
}

#[test]
fn neighbouring_versions_understand_each_other() {
    assert_eq!(versions(1, 2).common(versions(2, 3)), Ok(2));
    assert_eq!(versions(2, 3).common(versions(1, 2)), Ok(2));
    assert_eq!(versions(1, 1).common(versions(1, 2)), Ok(1));
    let far = versions(1, 1).common(versions(2, 3)).unwrap_err().to_string();
    assert_eq!(far, "no common version of the inner protocol: 1 to 1 here, 2 to 3 there");
    for nobodys in [versions(0, 0), versions(3, 1)] {
        assert!(versions(0, 1).common(nobodys).is_err(), "{nobodys:?}");
    }
    assert!(versions(1, 2).contains(2) && !versions(1, 2).contains(0) && !versions(1, 2).contains(3));
}
