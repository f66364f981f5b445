//! Steps survive the wire, and what is no step is refused.

use model::Packer;
use score::Partials;

use super::*;

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
    let of_rank = |logits: &[f32], checksum| Partials::new(2, logits.to_vec(), vec![checksum]).unwrap();
    let sent = Report {
        first_rank: 2,
        stamp: Stamp { generation: 1, epoch: 2, step: 3 },
        ranks: vec![of_rank(&[f32::NAN, 1.0], 7), of_rank(&[-0.0, 2.0], 8)],
    };
    let message = || partials(sent.clone());
    let got = report(message(), &(2..4), 2).unwrap();
    assert_eq!((got.first_rank, got.stamp), (2, sent.stamp));
    let bits = |report: &Report| {
        let contributions = report.ranks.iter().flat_map(Partials::iter);
        contributions
            .map(|it| (it.values.iter().map(|x| x.to_bits()).collect(), it.checksum))
            .collect::<Vec<(Vec<_>, _)>>()
    };
    assert_eq!(bits(&got), bits(&sent));
    assert!(report(message(), &(1..3), 2).is_err());
    let other_head = report(message(), &(2..4), 1).unwrap_err();
    assert_eq!(other_head, "rank 2 sent 2 partial logits and 1 checksums, for 1 outputs each");
}
