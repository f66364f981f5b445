//! Endpoints are read as people write them.

use super::*;
use crate::remote::args::TlsArgs;

fn read(text: &str) -> Option<(Option<bool>, String)> {
    text.parse::<Address>().ok().map(|address| (address.secure, address.authority))
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let some = |secure, authority: &str| Some((secure, authority.to_owned()));
    assert_eq!(read("gateway:7600"), some(None, "gateway:7600"));
    assert_eq!(read("http://127.0.0.1:7600/"), some(Some(false), "127.0.0.1:7600"));
    assert_eq!(read("https://rewards.example.com"), some(Some(true), "rewards.example.com:443"));
    assert_eq!(read("http://[::1]:7600"), some(Some(false), "[::1]:7600"));
    assert_eq!(read("https://[::1]"), some(Some(true), "[::1]:443"));
    for wrong in
        ["", "gateway", ":1", "a:0", "a:70000", "ftp://a:1", "http://a:1/path", "http://u@a:1", "a b:1", "//a:1"]
    {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}

#[test]
fn plain_and_secure_do_not_go_together() {
    let named = |text: &str, domain: Option<&str>| {
        let tls = TlsArgs { domain: domain.map(str::to_owned), ..TlsArgs::default() };
        let found = endpoints(&EndpointArgs { endpoint: text.split(',').map(|it| it.parse().unwrap()).collect(), tls });
        found.map(|found| found.iter().map(|endpoint| endpoint.name().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(named("a:1,https://b", None).unwrap(), ["http://a:1", "https://b:443"]);
    assert_eq!(named("a:1", Some("gateway")).unwrap(), ["https://a:1"]);
    let error = named("https://b,http://a:1", Some("gateway")).unwrap_err();
    assert!(error.to_string().contains("http://a:1 is without TLS"), "{error}");
}
