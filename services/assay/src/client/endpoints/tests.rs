//! Endpoints are read as people write them.

use super::*;
use crate::client::args::TlsArgs;

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
    let endpoints = |text: &str, domain: Option<&str>| {
        let tls = TlsArgs { domain: domain.map(str::to_owned), ..TlsArgs::default() };
        Endpoints::new(&EndpointArgs { endpoint: text.split(',').map(|it| it.parse().unwrap()).collect(), tls })
    };
    assert_eq!(endpoints("a:1,https://b", None).unwrap().names(), "http://a:1, https://b:443");
    assert_eq!(endpoints("a:1", Some("gateway")).unwrap().names(), "https://a:1");
    let Err(error) = endpoints("https://b,http://a:1", Some("gateway")) else { panic!("a:1 has no TLS") };
    assert!(error.to_string().contains("http://a:1 is without TLS"), "{error}");
}

#[tokio::test]
async fn endpoints_are_walked_in_a_circle() {
    let list = ["127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse().unwrap()).to_vec();
    let mut endpoints = Endpoints::new(&EndpointArgs { endpoint: list, tls: TlsArgs::default() }).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let Err((name, status)) = endpoints.dial().await else { panic!("nobody listens there") };
        assert!(in_words(&status).contains("refused"), "{status}");
        seen.push(name);
    }
    assert_eq!(seen, ["http://127.0.0.1:1", "http://127.0.0.2:1", "http://127.0.0.1:1"]);
}
