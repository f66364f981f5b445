//! Keys are read as they were written.

use super::*;

#[test]
fn keys_are_read_as_they_were_written() {
    assert_eq!(rank("a", 1), "replicas/a/ranks/1");
    assert_eq!(epoch("a"), format!("{}/epoch", replica("a")));
    assert_eq!(read(&rank("a", 1)), Some(Entry::Rank { replica: "a", rank: 1 }));
    assert_eq!(read(&epoch("a")), Some(Entry::Epoch { replica: "a" }));
    for other in [
        "replicas/a",
        "replicas/a/ranks",
        "replicas/a/ranks/x",
        "replicas/a/ranks/1/2",
        "nodes/a/ranks/1",
        "replicasa/epoch",
    ] {
        assert_eq!(read(other), None, "{other}");
    }
}
