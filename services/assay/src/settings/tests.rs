//! Settings from files: what is said holds, what nobody knows is refused, defaults are what `config show` prints.

use std::io::Write as _;
use std::num::NonZeroUsize;

use clap::Parser as _;
use serde_json::Value;

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
    assert_eq!(gateway.tenants.0["alice"].get(), 3);
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
    for (setting, expected) in [
        ("threads = 5000", "threads: expected at most 1024"),
        ("patience.heartbeat = \"0s\"", "patience.heartbeat: expected more than 0s"),
        ("patience.forming = \"0s\"", "patience.forming: expected more than 0s"),
    ] {
        assert_eq!(shard(&format!("model = \"m\"\n{setting}")), expected);
    }
    let model = "models = [{ model = \"a/m\" }]";
    for (settings, expected) in [
        ("models = [{ name = \"x\" }]", "models[0]: model is missing"),
        ("models = [{ model = \"a/m\" }, { model = \"b/m\" }]", "models[1]: m is there already, give it another name"),
        ("limits.queue_tokens = 0", "limits.queue_tokens: expected at least 1"),
        ("limits.message = \"0B\"", "limits.message: expected more than 0B"),
        ("limits.timeout = \"0s\"", "limits.timeout: expected more than 0s"),
        ("limits.tokenizer_threads = 2000", "limits.tokenizer_threads: expected at most 1024"),
        ("routing.attempts = 0", "routing.attempts: expected at least 1"),
    ] {
        let settings =
            if settings.starts_with("models") { settings.to_owned() } else { format!("{model}\n{settings}") };
        let refused = load::<GatewaySettings>(&settings).unwrap().check().unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    let error = load::<GatewaySettings>("limits.stream_items = 0").unwrap_err();
    assert!(error.contains("limits.stream_items"), "{error}");
    let error = load::<GatewaySettings>("[shards.server]\ncertificate = \"a\"\nkey = \"b\"").unwrap_err();
    assert!(error.contains("shards") && error.contains("server"), "{error}");
}

/// What is shown is the defaults, and what is a comment in it could be set.
fn shown<T: Settings + std::fmt::Debug + PartialEq>() {
    let text = show(&T::example()).unwrap();
    assert_eq!(load::<T>(&text).unwrap(), T::example(), "{text}");
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    let set: Vec<_> = text.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect();
    let set = load::<T>(&set.join("\n")).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_ne!(set, T::example());
    set.check().unwrap();
    // every setting is there, with a value
    let values = serde_json::to_value(&set).unwrap();
    complete("", show::schema_of::<T>().as_value(), &values);
}

fn complete(path: &str, schema: &Value, values: &Value) {
    if let Some(values) = values.as_array() {
        return values.iter().for_each(|values| complete(path, &schema["items"], values));
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        assert!(!values[key].is_null(), "{path} is not shown");
        assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{path} is not explained");
        complete(&path, property, &values[key]);
    }
}

#[test]
fn every_setting_is_shown_and_what_is_shown_is_accepted() {
    shown::<GatewaySettings>();
    shown::<ShardSettings>();
    let text = show(&ShardSettings::example()).unwrap();
    let replica = "\n# The name of the replica, among all of the cluster.\nreplica = \"replica-0\"\n";
    assert!(text.contains(replica), "{text}");
    assert!(text.contains("\n#advertise = \"10.0.0.5:7610\"\n"), "{text}");
}

#[test]
fn flags_go_over_the_file() {
    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        settings: Flags<ShardSettings>,
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"model = \"m\"\nreplica = \"a\"\nthreads = 2\n[registry]\nlease = \"9s\"\n").unwrap();
    let parse = |flags: &[&str]| Command::try_parse_from([&["assay"], flags].concat()).map(|command| command.settings);
    let flags = parse(&["--replica", "b", "--etcd", "http://a:1,http://b:2", "--ranks", "0..1"]).unwrap();
    let settings = flags.over(Some(file.path())).unwrap();
    let registry = RegistrySettings {
        endpoints: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
        lease: Duration::from_secs(9),
        ..RegistrySettings::default()
    };
    let expected = ShardSettings {
        model: "m".to_owned(),
        replica: "b".to_owned(),
        ranks: Some("0..1".parse().unwrap()),
        threads: NonZeroUsize::new(2),
        registry,
        ..ShardSettings::default()
    };
    assert_eq!(settings, expected);
    assert_eq!(parse(&[]).unwrap().over(None).unwrap(), ShardSettings::default());
    assert!(parse(&["--threads", "9999"]).unwrap_err().to_string().contains("1024"));
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

#[test]
fn what_is_open_to_strangers_is_said() {
    let registry = |text: &str| load::<RegistrySettings>(text).unwrap().exposure();
    let etcd = "etcd at http://10.0.0.1:2379 asks nobody who they are";
    assert!(registry("endpoints = [\"http://10.0.0.1:2379\"]\nuser = \"assay\"").unwrap().starts_with(etcd));
    assert!(registry("endpoints = [\"https://etcd-0:2379\"]").unwrap().starts_with("etcd at https://etcd-0:2379"));
    for closed in [
        "",
        "endpoints = [\"http://localhost:2379\", \"http://[::1]:2379\"]",
        "endpoints = [\"https://etcd-0:2379\"]\nuser = \"assay\"",
        "endpoints = [\"https://etcd-0:2379\"]\ntls = { ca = \"ca\", certificate = \"c\", key = \"k\" }",
    ] {
        assert_eq!(registry(closed), None, "{closed}");
    }

    let shard = |text: &str| load::<ShardSettings>(text).unwrap().exposure();
    assert!(shard("listen = \"10.0.0.5:7610\"").unwrap().contains("client_ca"));
    let tls = "listen = \"0.0.0.0:7610\"\n[tls.server]\ncertificate = \"c\"\nkey = \"k\"";
    assert!(shard(tls).unwrap().contains("0.0.0.0:7610"));
    assert_eq!(shard(&format!("{tls}\nclient_ca = \"ca\"")), None);
    assert_eq!(shard(""), None);
}
