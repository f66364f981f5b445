//! Names, as requests carry them.

use super::*;

#[test]
fn names_are_known_by_the_settings_and_by_where_a_gateway_listens() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(Hosts::new(&[], "0.0.0.0:7600"), Hosts::Any);
    assert!(Hosts::new(&[], "0.0.0.0:7600").know("assay.lab"));
    let here = Hosts::new(&[], "127.0.0.1:7600");
    for known in ["localhost", "LocalHost.", "a.localhost", "127.0.0.1", "[::1]", "10.0.0.7"] {
        assert!(here.know(known), "{known}");
    }
    for stranger in ["rebound.example", "localhost.example", "127.0.0.1.example", ""] {
        assert!(!here.know(stranger), "{stranger}");
    }
    let named = Hosts::new(&names(&["assay.lab"]), "0.0.0.0:7600");
    assert!(named.know("ASSAY.lab") && named.know("10.0.0.7") && !named.know("rebound.example"));
}
