//! Files of TLS that are wrong in every way; those that are right are used in the tests of `net`.

use std::path::PathBuf;

use super::{ClientTls, ServerTls};
use crate::testing::Authority;

fn server(tls: ServerTls) -> String {
    tls.load().unwrap_err().to_string()
}

fn client(tls: ClientTls) -> String {
    tls.load().unwrap_err().to_string()
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("shard");
    let right = ServerTls { certificate: certificate.clone(), key: key.clone(), client_ca: None };
    right.load().unwrap();
    let missing = PathBuf::from("/nowhere/tls.pem");
    let expected = "/nowhere/tls.pem: No such file or directory (os error 2)";
    assert_eq!(server(ServerTls { certificate: missing.clone(), ..right.clone() }), expected);
    assert_eq!(server(ServerTls { key: missing.clone(), ..right.clone() }), expected);
    assert_eq!(server(ServerTls { client_ca: Some(missing.clone()), ..right.clone() }), expected);
    assert_eq!(client(ClientTls { ca: Some(missing), ..ClientTls::default() }), expected);
    let swapped = server(ServerTls { certificate: key.clone(), key: certificate.clone(), client_ca: None });
    assert_eq!(swapped, format!("{}: there is no certificate in it", key.display()));
    let twice = server(ServerTls { key: certificate.clone(), ..right.clone() });
    assert_eq!(twice, format!("{}: there is no private key that is not encrypted in it", certificate.display()));
    let empty = authority.write("empty.pem", "");
    let no_authority = server(ServerTls { client_ca: Some(empty.clone()), ..right.clone() });
    assert_eq!(no_authority, format!("{}: there is no certificate in it", empty.display()));
    let damaged = authority.write("damaged.pem", "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n");
    let damage = server(ServerTls { certificate: damaged.clone(), ..right });
    assert!(damage.starts_with(&format!("{}: ", damaged.display())), "{damage}");
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let authority = Authority::new();
    let ((certificate, _), (_, key)) = (authority.sign("shard"), authority.sign("gateway"));
    let error = server(ServerTls { certificate: certificate.clone(), key, client_ca: None });
    assert!(error.starts_with(&format!("{}: ", certificate.display())), "{error}");
    assert!(error.contains("key"), "{error}");
}

#[test]
fn an_own_certificate_that_has_expired_is_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign_until("old", 2020);
    let name = certificate.display();
    let refused = format!("{name}: the certificate of CN=rcgen self signed cert has expired at 2020-01-01T00:00:00Z");
    let tls = ServerTls { certificate: certificate.clone(), key: key.clone(), client_ca: None };
    assert_eq!(server(tls), refused);
    let ca = Some(authority.certificate());
    assert_eq!(client(ClientTls { ca, certificate: Some(certificate), key: Some(key), domain: None }), refused);
}

#[test]
fn a_client_presents_a_certificate_and_its_key_or_neither() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("gateway");
    let right = ClientTls {
        ca: Some(authority.certificate()),
        certificate: Some(certificate.clone()),
        key: Some(key.clone()),
        domain: Some("shard".to_owned()),
    };
    right.load().unwrap();
    let needs = "a client that presents a certificate needs its key as well";
    let half = client(ClientTls { key: None, ..right.clone() });
    assert_eq!(half, format!("{}: {needs}: `key` is not set", certificate.display()));
    let half = client(ClientTls { certificate: None, ..right.clone() });
    assert_eq!(half, format!("{}: {needs}: `certificate` is not set", key.display()));
    let error = client(ClientTls { domain: Some("not a name".to_owned()), ..right });
    assert!(error.contains("domain \"not a name\": "), "{error}");
}

#[test]
fn settings_are_paths() {
    let text = r#"{"certificate": "/tls/tls.crt", "key": "/tls/tls.key"}"#;
    let tls: ServerTls = serde_json::from_str(text).unwrap();
    assert_eq!((tls.key.to_str(), tls.client_ca), (Some("/tls/tls.key"), None));
    assert!(serde_json::from_str::<ServerTls>(r#"{"certificate": "/tls/tls.crt"}"#).is_err());
    assert!(serde_json::from_str::<ClientTls>(r#"{"cert": "/tls/tls.crt"}"#).is_err());
    assert_eq!(serde_json::from_str::<ClientTls>("{}").unwrap(), ClientTls::default());
}
