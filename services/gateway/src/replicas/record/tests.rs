//! Keys and records of ranks, and what is none.

use super::*;

fn record() -> RankRecord {
    let (model, address, fingerprint) = ("m".to_owned(), "h:1".to_owned(), "f".to_owned());
    let state = RankState::Serving.into();
    RankRecord { model, state, address, world_size: 2, epoch: 7, generation: 1, fingerprint }
}

fn try_read(key: &str, record: &RankRecord) -> Result<Option<Record>, String> {
    read(&Key::new(key).unwrap(), &record.encode_to_vec())
}

#[test]
fn a_record_is_read_from_its_key_and_value() {
    let expected = Record {
        replica: "a".to_owned(),
        rank: 1,
        model: "m".to_owned(),
        state: Rank::Serving,
        address: "h:1".to_owned(),
        ranks: 2,
        epoch: 7,
    };
    assert_eq!(try_read("replicas/a/ranks/1", &record()), Ok(Some(expected)));
}

#[test]
fn other_keys_are_nobodys_record() {
    for key in ["replicas/a/epoch", "replicas/a/ranks", "replicas/a/ranks/x", "replicas/a/ranks/1/2", "nodes/a/ranks/1"]
    {
        assert_eq!(try_read(key, &record()), Ok(None), "{key}");
    }
}

#[test]
fn a_record_that_makes_no_sense_is_none() {
    let bad = |change: fn(&mut RankRecord)| {
        let mut record = record();
        change(&mut record);
        try_read("replicas/a/ranks/1", &record).unwrap_err()
    };
    assert_eq!(bad(|record| record.state = 0), "its state is 0");
    assert_eq!(bad(|record| record.state = 99), "its state is 99");
    assert_eq!(bad(|record| record.world_size = 1), "rank 1 of 1");
    assert_eq!(bad(|record| record.epoch = 0), "it serves, and has no address or no epoch");
    assert_eq!(bad(|record| record.address.clear()), "it serves, and has no address or no epoch");
    assert!(read(&Key::new("replicas/a/ranks/1").unwrap(), b"\xff\xff").is_err());
}
