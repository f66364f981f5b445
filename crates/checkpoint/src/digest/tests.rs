//! What changes the digest and what does not.

use std::collections::HashSet;

use super::*;
use crate::{HubOptions, locate};

const BIG: usize = 3 * WHOLE as usize;

/// A safetensors file with a large tensor and a small one after it.
fn weights(metadata: &str) -> Vec<u8> {
    let header = format!(
        r#"{{"__metadata__":{{"format":"{metadata}"}},"big":{{"dtype":"U8","shape":[{BIG}],"data_offsets":[0,{BIG}]}},"score.weight":{{"dtype":"U8","shape":[9000],"data_offsets":[{BIG},{}]}}}}"#,
        BIG + 9000
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..BIG + 9000).map(|at| (at % 251) as u8));
    bytes
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let index = br#"{"weight_map": {"big": "one.safetensors", "score.weight": "one.safetensors"}}"#;
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{}".to_vec()),
        ("chat_template.jinja", b"x".to_vec()),
        ("special_tokens_map.json", b"{}".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("one.safetensors", weights("pt")),
    ]
}

fn directory(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn digest(files: &[(&str, Vec<u8>)]) -> Result<Digest, Error> {
    let directory = directory(files);
    locate(directory.path().to_str().unwrap(), &HubOptions::default()).unwrap().digest()
}

#[test]
fn the_place_does_not_matter() {
    assert_eq!(digest(&files()).unwrap(), digest(&files()).unwrap());
}

#[test]
fn every_part_matters() {
    let mut seen = HashSet::from([digest(&files()).unwrap()]);
    for part in 0..6 {
        let mut changed = files();
        changed[part].1.push(b' ');
        assert!(seen.insert(digest(&changed).unwrap()), "{}", changed[part].0);
    }
    for part in 2..5 {
        let mut without = files();
        without.remove(part);
        assert!(seen.insert(digest(&without).unwrap()));
    }
    let mut header = files();
    header[6].1 = weights("np");
    assert!(seen.insert(digest(&header).unwrap()));
    let mut longer = files();
    longer[6].1.push(0);
    assert!(seen.insert(digest(&longer).unwrap()));
    // The ends of each tensor, and any byte of a small one.
    let start = weights("pt").len() - BIG - 9000;
    for at in [start, start + BIG - 1, start + BIG, start + BIG + 4500, start + BIG + 8999] {
        let mut tensor = files();
        tensor[6].1[at] ^= 1;
        assert!(seen.insert(digest(&tensor).unwrap()), "byte {at}");
    }
}

#[test]
fn how_text_is_read_is_one_part_of_it() {
    let text = |files: &[(&str, Vec<u8>)]| {
        let directory = directory(files);
        locate(directory.path().to_str().unwrap(), &HubOptions::default()).unwrap().text_digest().unwrap()
    };
    let same = text(&files());
    let mut weights_differ = files();
    weights_differ[6].1.push(0);
    assert_eq!(text(&weights_differ), same);
    for part in 0..5 {
        let mut changed = files();
        changed[part].1.push(b' ');
        assert_ne!(text(&changed), same, "{}", changed[part].0);
    }
}

#[test]
fn a_border_between_parts_matters() {
    let mut one = files();
    let mut other = files();
    (one[0].1, one[1].1) = (b"{}{".to_vec(), b"}".to_vec());
    (other[0].1, other[1].1) = (b"{}".to_vec(), b"{}".to_vec());
    assert_ne!(digest(&one).unwrap(), digest(&other).unwrap());
}

#[test]
fn pieces_stay_inside_and_reach_both_ends() {
    for length in [0, 1, WHOLE, WHOLE + 1, 10 * WHOLE, u64::MAX] {
        let pieces = pieces(length);
        assert_eq!(pieces[0].0, 0);
        let (offset, size) = pieces[pieces.len() - 1];
        assert_eq!(offset + size, length);
        assert!(pieces.iter().all(|(_, size)| *size <= WHOLE));
    }
}

#[test]
fn a_bad_header_is_an_error_that_names_the_file() {
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes
    };
    let cases = [
        vec![],
        vec![1, 2, 3],
        u64::MAX.to_le_bytes().to_vec(),
        9_u64.to_le_bytes().to_vec(),
        with_header("nonsense"),
        with_header("[]"),
        with_header(r#"{"x": {}}"#),
        with_header(r#"{"x": {"data_offsets": [0, 1]}}"#),
        with_header(r#"{"x": {"data_offsets": [2, 1]}}"#),
        with_header(r#"{"x": {"data_offsets": [0, 18446744073709551615]}}"#),
        weights("pt")[..BIG].to_vec(),
    ];
    for bytes in cases {
        let mut broken = files();
        broken[6].1 = bytes;
        let error = digest(&broken).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("one.safetensors"), "{error}");
    }
}

#[test]
fn the_fingerprint_joins_model_and_numerics() {
    let digest = digest(&files()).unwrap();
    let cpu = fingerprint(&digest, "cpu f32 tp1 1");
    assert_eq!(cpu, fingerprint(&digest, "cpu f32 tp1 1"));
    assert_ne!(cpu, fingerprint(&digest, "cpu f32 tp2 1"));
    assert_ne!(cpu, fingerprint(&Digest([0; 32]), "cpu f32 tp1 1"));
    assert_eq!(cpu.to_string().len(), 32);
    assert_eq!(digest.to_string().len(), 64);
}

proptest::proptest! {
    #[test]
    fn no_weights_panic(length in 0_u64..200, bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let mut broken = files();
        broken[6].1 = length.to_le_bytes().into_iter().chain(bytes).collect();
        let _ = digest(&broken);
    }
}
