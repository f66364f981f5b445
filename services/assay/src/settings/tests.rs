//! Settings from files: what is said holds, what nobody knows is refused, defaults are what `config show` prints.

use std::io::Write as _;

use super::*;

fn load<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().display().to_string();
    service::config::load(file.path()).map_err(|error| error.to_string().replace(&path, "FILE"))
}

#[test]
fn what_a_file_says_holds() {
    let gateway: GatewaySettings = load(
        r#"
        listen = "0.0.0.0:7000"
        [limits]
        message = "4MiB"
        timeout = "90s"
        [tenants]
        alice = 3
        [[models]]
        model = "Skywork/Skywork-Reward-Gemma-2-27B-v0.2"
        name = "27b"
        [registry]
        endpoints = ["http://a:2379", "http://b:2379"]
        "#,
    )
    .unwrap();
    assert_eq!(gateway.listen, "0.0.0.0:7000");
    assert_eq!((gateway.limits.message, gateway.limits.timeout), (4 << 20, Duration::from_secs(90)));
    assert_eq!(gateway.tenants["alice"].get(), 3);
    assert_eq!(gateway.registry.endpoints.len(), 2);
    assert_eq!(gateway.http, GatewaySettings::default().http);
    gateway.check().unwrap();

    let shard: ShardSettings = load("model = \"m\"\nranks = \"2..4\"\ntensor_parallel = 4").unwrap();
    assert_eq!(shard.ranks, Some("2..4".parse().unwrap()));
    shard.check().unwrap();
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let error = load::<ShardSettings>("model = \"m\"\nrankz = \"0..1\"").unwrap_err();
    assert!(error.starts_with("FILE:2:") && error.contains("rankz"), "{error}");
    let error = load::<ShardSettings>("ranks = \"2..1\"").unwrap_err();
    assert!(error.contains("ranks") && error.contains("0..2"), "{error}");
    let error = load::<GatewaySettings>("[limits]\nmessage = 4").unwrap_err();
    assert!(error.starts_with("FILE:2: limits.message"), "{error}");
    let error = load::<GatewaySettings>("[registry.tls]\nkeys = 1").unwrap_err();
    assert!(error.contains("registry.tls"), "{error}");

    let shard = |text: &str| load::<ShardSettings>(text).unwrap().check().unwrap_err().to_string();
    assert!(shard("").contains("--model"));
    assert_eq!(shard("model = \"m\"\nranks = \"0..2\""), "ranks 0..2 are not in a replica of 1 ranks");
    assert!(shard("model = \"m\"\n[patience]\nsilence = \"1ms\"").contains("silence"));
    let gateway = load::<GatewaySettings>("[[models]]\nname = \"x\"").unwrap();
    assert_eq!(gateway.check().unwrap_err().to_string(), "models[0]: model is missing");
}

#[test]
fn defaults_survive_a_file_that_holds_all_of_them() {
    let shard = ShardSettings { model: "m".to_owned(), ..ShardSettings::default() };
    assert_eq!(load::<ShardSettings>(&toml::to_string(&shard).unwrap()).unwrap(), shard);
    let gateway = GatewaySettings::default();
    assert_eq!(load::<GatewaySettings>(&toml::to_string(&gateway).unwrap()).unwrap(), gateway);
}

#[test]
fn a_user_of_etcd_has_a_password() {
    let registry: RegistrySettings = load("user = \"assay\"").unwrap();
    assert_eq!(registry.options().unwrap_err().to_string(), "registry: user and password_file go together");
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(b"secret\n").unwrap();
    let registry = RegistrySettings { password_file: Some(password.path().to_owned()), ..registry };
    assert_eq!(registry.options().unwrap().credentials.unwrap().password, "secret");
}
