//! Steps survive the wire, and what is no step is refused.

use model::Packer;

use super::*;

fn range(lowest: u32, highest: u32) -> wire::ProtocolRange {
    wire::ProtocolRange { lowest, highest }
}

fn packed() -> Work {
    let mut packer = Packer::default();
    let shared = 0u32..20;
    for tail in [&[100, 101][..], &[200], &[]] {
        packer.push(shared.clone().chain(tail.iter().copied()).collect());
    }
    packer.push((500..509).collect());
    let stamp = Stamp { generation: 3, epoch: 8, step: 21 };
    Work { stamp, batch: Arc::new(packer.pack()), trace: Some("00-1-2-01".into()) }
}

#[test]
fn neighbouring_versions_understand_each_other() {
    assert_eq!(common_version(range(1, 2), Some(range(2, 3))), Ok(2));
    assert_eq!(common_version(range(2, 3), Some(range(1, 2))), Ok(2));
    assert_eq!(common_version(range(1, 1), Some(range(1, 2))), Ok(1));
    let far = common_version(range(1, 1), Some(range(2, 3))).unwrap_err();
    assert_eq!(far, "no common version of the inner protocol: 1 to 1 here, 2 to 3 there");
    assert!(common_version(range(1, 1), None).is_err());
    assert!(common_version(range(0, 1), Some(range(0, 0))).is_err(), "version 0 is nobody's");
}

#[test]
fn a_step_survives_the_wire() {
    let work_before = packed();
    assert_eq!(work(step(&work_before)), Ok(work_before));
}

#[test]
fn what_is_no_step_is_refused() {
    let spoiled = |spoil: fn(&mut wire::Step)| {
        let mut step = step(&packed());
        spoil(&mut step);
        work(step).unwrap_err()
    };
    assert!(spoiled(|step| step.stamp = None).contains("without a stamp"));
    assert!(spoiled(|step| step.tokens.truncate(3)).contains("in all"));
    assert!(spoiled(|step| step.ends[0] = 99).contains("ends in no segment"));
    assert!(spoiled(|step| step.ends.clear()).contains("ends in no segment"));
    assert!(spoiled(|step| step.segments[0].parent = 2).contains("comes before its parent"));
    assert!(spoiled(|step| step.segments[0].length = 0).contains("does not continue"));
    assert!(spoiled(|step| step.segments.last_mut().unwrap().position = 7).contains("does not continue"));
}

#[test]
fn partial_logits_come_from_the_ranks_that_the_worker_owns() {
    let sent = Partials {
        first_rank: 2,
        stamp: Stamp { generation: 1, epoch: 2, step: 3 },
        ranks: vec![
            vec![PartialLogit { logit: f32::NAN, checksum: 7 }],
            vec![PartialLogit { logit: -0.0, checksum: 8 }],
        ],
    };
    let got = partials(partials_of(&sent), &(2..4)).unwrap();
    assert_eq!((got.first_rank, got.stamp), (2, sent.stamp));
    let bits = |partials: &Partials| {
        partials.ranks.iter().flatten().map(|it| (it.logit.to_bits(), it.checksum)).collect::<Vec<_>>()
    };
    assert_eq!(bits(&got), bits(&sent));
    assert!(partials(partials_of(&sent), &(1..3)).is_err());
    let mut short = partials_of(&sent);
    short.ranks[0].checksums.clear();
    assert!(partials(short, &(2..4)).unwrap_err().contains("1 logits and 0 checksums"));
}
