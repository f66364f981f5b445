//! Where and in which numbers: what a user asks for and cannot have is refused before a model is fetched or a port is
//! bound, with what would do; what `inspect` says of memory; two steps in flight.

use std::sync::Arc;

use model::Compute;
use tests::golden;

use crate::assay::{Call, assay, expected, ids};
use crate::replica;

/// What the binary says of a GPU, on a machine without a driver.
const NO_GPU: &str = match cfg!(feature = "cuda") {
    true => "no NVIDIA driver: libcuda.so.1 is not found",
    false => "this assay was built without CUDA: build it with `make cuda`",
};

/// Calls a command with a model and these flags.
fn call(command: &str, model: &str, flags: &[&str]) -> Call {
    let model = golden(model);
    assay(&[&[command, "--model", model.to_str().unwrap()], flags].concat(), b"")
}

/// The value of a row that `inspect` prints.
fn row<'a>(call: &'a Call, name: &str) -> &'a str {
    let rows = call.stdout.lines().map(|line| line.split_at(17));
    rows.into_iter().find(|(found, _)| found.trim() == name).unwrap().1
}

#[test]
fn what_cannot_be_computed_is_refused_with_what_would_do() {
    let lists = "device cuda:0,1 names 2 GPUs, and this process has 1 ranks: name one for each, or the first alone";
    for (flags, said) in [
        (&["--dtype", "bf16"][..], "a CPU computes in f32 only, not in bf16: choose dtype f32, or device cuda"),
        (&["--device", "cpu", "--dtype", "f16"], "a CPU computes in f32 only, not in f16"),
        (&["--device", "gpu"], "\"gpu\" is no device, expected cpu, cuda, cuda:N or cuda:N,M,..."),
        (&["--device", "cuda:x"], "\"cuda:x\" is no device"),
        (&["--dtype", "f8"], "[possible values: f32, bf16, f16]"),
        (&["--device", "cuda:0,1"], lists),
    ] {
        for command in ["score", "inspect", "up", "shard"] {
            let call = call(command, "gemma2-v4", flags);
            assert_eq!(call.status, Some(2), "{command} {flags:?}: {}", call.stderr);
            assert!(call.stderr.contains(said), "{command} {flags:?}: {}", call.stderr);
        }
    }
    let replicas = call("up", "gemma2-v4", &["--device", "cuda:0,1", "--replicas", "2", "--tensor-parallel", "2"]);
    assert!(replicas.stderr.contains("names 2 GPUs, and this process has 4 ranks"), "{}", replicas.stderr);
}

/// Nothing is fetched for a device that is not there.
#[test]
fn a_gpu_is_refused_where_there_is_none() {
    for command in ["score", "up", "shard"] {
        for device in ["cuda", "cuda:3", "cuda:0,0"] {
            let model = ["--model", "owner/no-such-model", "--tensor-parallel", "2", "--device", device];
            let call = assay(&[&[command], &model[..]].concat(), b"");
            assert_eq!(call.status, Some(2), "{command} {device}: {}", call.stderr);
            assert!(call.stderr.contains(NO_GPU), "{command} {device}: {}", call.stderr);
        }
    }
}

#[test]
fn a_settings_file_names_device_and_dtype_and_flags_go_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shard.toml");
    let file = file.to_str().unwrap();
    let check = |settings: &str| {
        std::fs::write(file, format!("model = \"m\"\ntensor_parallel = 2\n{settings}")).unwrap();
        assay(&["config", "check", "shard", file], b"")
    };
    for good in ["device = \"cuda:1\"", "device = \"cuda:0,0\"\ndtype = \"f32\"", "dtype = \"f32\""] {
        let call = check(good);
        assert_eq!(call.status, Some(0), "{good}: {}", call.stderr);
    }
    for (bad, said) in [
        ("device = \"cuda:1,2,3\"", "names 3 GPUs, and this process has 2 ranks"),
        ("device = \"tpu\"", "expected cpu, cuda, cuda:N or cuda:N,M,..."),
        ("dtype = \"f8\"", "expected one of `f32`, `bf16`, `f16`"),
        ("dtype = \"bf16\"", "a CPU computes in f32 only"),
    ] {
        let call = check(bad);
        assert_eq!(call.status, Some(2), "{bad}: {}", call.stderr);
        assert!(call.stderr.contains(said), "{bad}: {}", call.stderr);
    }
    // the file asks for numbers that a CPU has not, the flag for a device that is not there
    assert!(check("dtype = \"bf16\"").status == Some(2));
    let over = assay(&["shard", "--config", file, "--device", "cuda"], b"");
    assert!(over.stderr.contains(NO_GPU), "{}", over.stderr);
    let shown = assay(&["config", "show", "shard"], b"");
    assert!(shown.stdout.contains("\ndevice = \"cpu\"\n"), "{}", shown.stdout);
}

#[test]
fn the_memory_of_a_rank_is_shown_for_any_device() {
    let usual = call("inspect", "qwen3", &[]);
    assert!(row(&usual, "memory").ends_with(" bytes of weights in f32"), "{}", usual.stdout);
    let bytes = |call: &Call| {
        let mut words = row(call, "memory").split(' ');
        let number: f64 = words.next().unwrap().parse().unwrap();
        number * if words.next() == Some("million") { 1e6 } else { 1e3 }
    };
    let elsewhere = call("inspect", "qwen3", &["--device", "cuda"]);
    assert_eq!(elsewhere.status, Some(0), "{}", elsewhere.stderr);
    assert!(row(&elsewhere, "memory").ends_with(" bytes of weights in bf16"), "{}", elsewhere.stdout);
    assert!((bytes(&usual) / bytes(&elsewhere) - 2.0).abs() < 0.02, "{} {}", bytes(&usual), bytes(&elsewhere));
    for name in ["numerics", "fingerprint"] {
        let said = row(&elsewhere, name);
        assert!(said.starts_with(&format!("not known here: {NO_GPU}")), "{said}");
    }
    let split = call("inspect", "qwen3", &["--tensor-parallel", "2"]);
    assert!(row(&split, "memory").ends_with(" in f32 on each of 2 ranks"), "{}", split.stdout);
    assert!(bytes(&split) < bytes(&usual) && 2.0 * bytes(&split) > bytes(&usual));
    // what no machine computes is an error here, too
    let never = call("inspect", "gemma2-v4", &["--device", "cuda", "--dtype", "f16"]);
    assert_eq!(never.status, Some(2));
    assert!(never.stderr.contains("Gemma-2's activations are beyond the range of f16"), "{}", never.stderr);
}

#[test]
fn a_gateway_that_scores_chooses_its_devices_itself() {
    let call = assay(&["score", "--endpoint", "http://127.0.0.1:1", "--device", "cuda"], b"");
    assert_eq!(call.status, Some(2));
    assert!(call.stderr.contains("--device") && call.stderr.contains("--endpoint"), "{}", call.stderr);
}

#[test]
fn steps_in_flight_are_answered_each_with_its_own_scores() {
    for ranks in [1, 2] {
        let replica = replica::load("llama-sharded", ranks, ranks);
        let sequences: Vec<Arc<[u32]>> = expected("llama-sharded").iter().map(|row| ids(row).into()).collect();
        let mut alone = Vec::new();
        for sequence in &sequences {
            alone.extend(replica::scores(&replica, std::slice::from_ref(sequence)));
        }
        let mut steps = Vec::new();
        for sequence in &sequences {
            steps.push(replica.submit(replica::step(std::slice::from_ref(sequence))));
        }
        // whichever is asked for first
        steps.reverse();
        let mut scores: Vec<f32> =
            steps.into_iter().flat_map(|step| replica.collect(step).unwrap()).map(Result::unwrap).collect();
        scores.reverse();
        assert_eq!(scores, alone, "{ranks} ranks");
    }
}

#[test]
fn a_step_that_is_larger_than_planned_is_refused() {
    let few = vec![Compute { step_tokens: 100, ..Compute::default() }];
    let replica = replica::load_with("qwen3", 1, few);
    let sequence: Arc<[u32]> = vec![5; 101].into();
    let refused = replica.run(replica::step(&[sequence])).unwrap_err().to_string();
    assert_eq!(refused, "a step of 101 tokens is more than the 100 planned for");
}
