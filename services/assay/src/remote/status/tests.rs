//! A reading says what the gateway said, whether every model can be used, and how fast it went between two readings.

use super::*;

pub(super) fn read() -> v1::GetStatusResponse {
    let model = v1::ModelStatus {
        name: "skywork".to_owned(),
        max_length: 4096,
        generation: 3,
        fingerprint: "0123456789abcdef0123".to_owned(),
        replicas_ready: 1,
        replicas_standby: 2,
        conversations: 40,
        waiting_tokens: 12_000,
        sent_tokens: 800,
        tokens_per_second: 1234.5,
        retried: 1,
        waiting: vec![v1::TenantStatus {
            tenant: "team-a".to_owned(),
            tokens: 12_000,
            oldest_seconds: 2.25,
            pieces: 3,
        }],
        scored_tokens: 1000,
        scores: 10,
    };
    let rank = |rank, progress: v1::RankProgress| v1::RankStatus { rank, progress: progress.into() };
    let replica = v1::ReplicaStatus {
        name: "r0".to_owned(),
        model: "skywork".to_owned(),
        address: "10.0.0.1:50061".to_owned(),
        epoch: 7,
        world_size: 2,
        ranks: vec![rank(0, v1::RankProgress::Serving), rank(1, v1::RankProgress::Serving)],
        state: v1::ReplicaState::Ready.into(),
        reason: String::new(),
    };
    let lost = v1::ReplicaStatus {
        name: "r1".to_owned(),
        ranks: vec![rank(1, v1::RankProgress::Ready), rank(2, v1::RankProgress::Loading)],
        world_size: 4,
        state: v1::ReplicaState::Lost.into(),
        reason: "connection refused".to_owned(),
        ..replica.clone()
    };
    v1::GetStatusResponse { gateway: "gw-0".to_owned(), models: vec![model], replicas: vec![replica, lost] }
}

#[test]
fn scripts_get_words_and_whether_all_is_well() {
    let json = serde_json::to_value(Json { ready: is_ready(&read()), reading: &read() }).unwrap();
    assert_eq!((&json["ready"], &json["gateway"]), (&true.into(), &"gw-0".into()));
    let words = |number: usize| (&json["replicas"][number]["state"], &json["replicas"][number]["ranks"][1]["progress"]);
    assert_eq!(words(0), (&"ready".into(), &"serving".into()));
    assert_eq!(words(1), (&"lost".into(), &"loading".into()));
    let waiting = serde_json::json!([{ "tenant": "team-a", "tokens": 12_000, "oldest_seconds": 2.25, "pieces": 3 }]);
    assert_eq!(json["models"][0]["waiting"], waiting);
}

#[test]
fn each_model_needs_a_replica() {
    let mut status = read();
    assert!(is_ready(&status));
    let away = v1::ModelStatus { replicas_ready: 0, ..status.models[0].clone() };
    status.models.push(away);
    assert!(!is_ready(&status));
}

#[test]
fn the_rate_is_that_between_two_readings_of_one_gateway() {
    let before = read();
    let later = |gateway: &str, scored_tokens| {
        let mut reading = read();
        reading.gateway = gateway.to_owned();
        reading.models[0].scored_tokens = scored_tokens;
        measure_since(&mut reading, &before, Duration::from_secs(2));
        reading.models[0].tokens_per_second
    };
    assert_eq!(later("gw-0", 1500), 250.0);
    assert_eq!(later("gw-0", 1000), 0.0);
    // it was started anew, or it is another one
    assert_eq!(later("gw-0", 500), 1234.5);
    assert_eq!(later("gw-1", 1500), 1234.5);
}
