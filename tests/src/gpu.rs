//! The code for GPUs, run for real where there is none: the fakes of tests/gpu/fake stand in for the driver, cuBLASLt
//! and NCCL, and complain about what those would not forgive. The kernels are the GPU's, compiled for the CPU.
//!
//! What a fake cannot know: what nvcc makes of the kernels, cuBLASLt's own sums, NCCL between machines, and time.

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collective::{Collective, Seat, Solo, threads};
use discovery::Registry;
use model::{Compute, Config, Device, Dtype, Model, PackedBatch};
use proto::shard::v1 as wire;
use score::Partials;
use shard::WorkerOptions;
use tests::{GOLDEN, golden};

use self::fake::{Machine, fault};
use crate::assay::{self, expected, ids};
use crate::golden::TOLERANCE;
use crate::replica::{self, Replica};
use crate::worker;

/// Tokens of the largest step.
const STEP: usize = 5000;
/// cuda.h: CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
/// CUDA_ERROR_LAUNCH_FAILED.
const OUT_OF_MEMORY: &str = "2";
const ILLEGAL_ADDRESS: &str = "700";
const OUT_OF_RESOURCES: &str = "701";
const LAUNCH_FAILED: &str = "719";

/// How many algorithms the fake of cuBLASLt has, bad ones among them: tests/gpu/fake/cublaslt.cpp.
const ALGORITHMS: &str = "FAKE_CUBLASLT_ALGORITHMS";
const ALL_ALGORITHMS: u32 = 9;

type Answer = Result<Partials, model::Error>;

fn compute(device: Device, dtype: Dtype) -> Compute {
    Compute { device, dtype, step_tokens: STEP }
}

/// A golden checkpoint's first sequences.
fn sequences(name: &str, count: usize) -> Vec<Arc<[u32]>> {
    expected(name).iter().take(count).map(|row| ids(row).into()).collect()
}

/// One rank of a golden checkpoint.
fn rank(name: &str, collective: Arc<dyn Collective>, compute: &Compute) -> Result<Model, model::Error> {
    let folder = golden(name);
    let file = folder.join("config.json");
    let config = Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut weights: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    weights.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    weights.sort();
    Model::load(&config, &weights, collective, compute).map(|(model, _)| model)
}

/// What goes wrong when a rank of a golden checkpoint is loaded.
fn refusal(name: &str, collective: Arc<dyn Collective>) -> String {
    match rank(name, collective, &compute(Device::Cuda(0), Dtype::Bf16)) {
        Ok(_) => panic!("{name} has been loaded"),
        Err(error) => error.to_string(),
    }
}

/// Scores in steps of three sequences, two steps at a time.
fn scores(replica: &Replica, sequences: &[Arc<[u32]>]) -> Vec<f32> {
    let (mut scores, mut flying) = (Vec::new(), None);
    for step in sequences.chunks(3) {
        let next = replica.submit(replica::step(step));
        scores.extend(flying.replace(next).into_iter().flat_map(|step| replica.collect(step).unwrap()));
    }
    scores.extend(flying.into_iter().flat_map(|step| replica.collect(step).unwrap()));
    scores.into_iter().map(Result::unwrap).collect()
}

/// Two ranks on GPUs, as a shard worker has them.
struct Pair {
    seats: Vec<Arc<Seat>>,
    models: Vec<Model>,
    batch: PackedBatch,
}

// === impl Pair ===

impl Pair {
    fn load(name: &str, gpus: [usize; 2]) -> Self {
        let seats: Vec<_> = (0..2).map(|rank| Arc::new(Seat::new(rank, 2))).collect();
        let load = |(seat, gpu): (&Arc<Seat>, usize)| {
            rank(name, Arc::clone(seat) as Arc<dyn Collective>, &compute(Device::Cuda(gpu), Dtype::Bf16)).unwrap()
        };
        let models = seats.iter().zip(gpus).map(load).collect();
        let pair = Self { seats, models, batch: replica::step(&sequences(name, 4)) };
        pair.sit();
        pair
    }

    /// Begins an epoch.
    fn sit(&self) {
        for (seat, end) in self.seats.iter().zip(threads(2)) {
            seat.take(Arc::new(end));
        }
    }

    /// A step on these ranks, each on its thread. When one fails both leave, as in a worker.
    fn step(&self, ranks: &[usize]) -> Vec<Answer> {
        let compute = |rank: usize| {
            let answer = self.models[rank].forward(&self.batch);
            if answer.is_err() {
                self.seats.iter().for_each(|seat| seat.leave());
            }
            answer
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = ranks.iter().map(|&rank| scope.spawn(move || compute(rank))).collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    fn good_step(&self) -> Vec<Partials> {
        self.step(&[0, 1]).into_iter().map(Result::unwrap).collect()
    }
}

/// The same bits as the kernels' host-played device gives, in every checkpoint and over any number of GPUs.
fn the_bits_are_those_of_the_host(dtype: Dtype, check: impl Fn(&str, &[f32])) {
    for name in GOLDEN {
        let sequences = sequences(name, 5);
        for ranks in [1, 2, 4] {
            let gpus = (0..ranks).map(|rank| compute(Device::Cuda(rank), dtype)).collect();
            let found = scores(&replica::load_with(name, ranks, gpus), &sequences);
            let host = vec![compute(Device::HostKernels, dtype); ranks];
            let wanted = replica::scores(&replica::load_with(name, ranks, host), &sequences);
            let bits = |scores: &[f32]| scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&wanted), "{name}, {ranks} ranks: {found:?}, not {wanted:?}");
            check(name, &found);
        }
    }
}

/// A worker with one of two ranks, on the GPU of its number.
fn worker_on_gpu(rank: usize) -> WorkerOptions {
    let mut options = worker::options(rank..rank + 1, 2);
    // the first step is a full one, and every kernel is played
    options.step_tokens = 700;
    options.ranks.computes =
        vec![Compute { step_tokens: options.step_tokens, ..compute(Device::Cuda(rank), Dtype::F32) }];
    options
}

#[test]
fn workers_on_gpus_meet_by_the_id_in_the_leaders_welcome_and_by_no_port_of_ours() {
    Machine::with(2).run("gpu::workers_on_gpus_meet_by_the_id_in_the_leaders_welcome_and_by_no_port_of_ours", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let registry = Registry::memory();
            let leader = worker::start(&registry, worker_on_gpu(0)).await;
            let on_gpu =
                |version| move |hello| wire::WorkerHello { nccl: Some(wire::Nccl { version, id: vec![] }), ..hello };
            let welcome = worker::claim_and_join(&registry, on_gpu(22_800)).await.unwrap();
            let id = welcome.nccl.as_ref().map(|nccl| (nccl.version, nccl.id.len()));
            assert_eq!((id, &*welcome.collective), (Some((22_800, 128)), ""));
            // who is of version 1 meets rank 0 over TCP, as before
            let old = |hello| wire::WorkerHello { protocol: Some(worker::OLD.into()), ..hello };
            let welcome = worker::claim_and_join(&registry, old).await.unwrap();
            assert!(welcome.nccl.is_none() && !welcome.collective.is_empty(), "{welcome:?}");
            leader.abort();
            let found = worker::score_of_two(worker_on_gpu(0), worker_on_gpu(1)).await;
            let host = vec![compute(Device::HostKernels, Dtype::F32); 2];
            let wanted = replica::scores(&replica::load_with("gemma2-v4", 2, host), &worker::sequences());
            assert_eq!(found, wanted);
        });
    });
}

#[test]
fn scores_in_f32_are_hugging_faces() {
    Machine::with(4).run("gpu::scores_in_f32_are_hugging_faces", || {
        the_bits_are_those_of_the_host(Dtype::F32, |name, scores| {
            for (row, score) in expected(name).iter().zip(scores) {
                let reference = row["score"].as_f64().unwrap();
                let apart = (f64::from(*score) - reference).abs() / reference.abs().max(1.0);
                assert!(apart < TOLERANCE, "{name}: {score}, not {reference}");
            }
        });
    });
}

#[test]
fn scores_in_bf16_are_those_of_the_host_played_gpu() {
    Machine::with(4).run("gpu::scores_in_bf16_are_those_of_the_host_played_gpu", || {
        the_bits_are_those_of_the_host(Dtype::Bf16, |_, _| {});
    });
}

/// Of the algorithms that the fake has, two split the depth, three give other bits for some numbers of rows, one of
/// them in their middle only, and one is for few rows.
#[test]
fn no_algorithm_is_taken_whose_bits_depend_on_the_rows() {
    let test = "gpu::no_algorithm_is_taken_whose_bits_depend_on_the_rows";
    Machine::with(1).set(ALGORITHMS, 7).run(test, || {
        let said = refusal("qwen3", Arc::new(Solo));
        assert!(said.contains("none of cuBLASLt's 4 algorithms for weights ["), "{said}");
        assert!(said.contains("] in bf16 gives a row the same bits whatever the number of rows ("), "{said}");
        for objection in ["between 8192 and 1 rows", "between 8192 and 6144 rows, near row 4064", "8192 rows with"] {
            assert!(said.contains(objection), "{objection}: {said}");
        }
    });
}

/// The only algorithm of this library that is good for all steps takes whole tiles of rows, and some are good for small
/// ones; for a full step it suggests nothing.
#[test]
fn rows_are_multiplied_in_whole_tiles_and_a_heuristic_may_fail() {
    let test = "gpu::rows_are_multiplied_in_whole_tiles_and_a_heuristic_may_fail";
    Machine::with(1).set(ALGORITHMS, ALL_ALGORITHMS - 1).run(test, || {
        fault("cublasLtMatmulAlgoGetHeuristic 1 15"); // not supported
        let step = replica::step(&sequences("qwen3", 2));
        let scores = |device| {
            let model = rank("qwen3", Arc::new(Solo), &compute(device, Dtype::Bf16)).unwrap();
            model.forward(&step).unwrap()
        };
        assert_eq!(scores(Device::Cuda(0)), scores(Device::HostKernels));
    });
}

#[test]
fn a_library_of_another_version_is_refused() {
    let test = "gpu::a_library_of_another_version_is_refused";
    Machine::with(1).set("FAKE_CUBLASLT_VERSION", 120_903).run(test, || {
        let said = refusal("qwen3", Arc::new(Solo));
        assert_eq!(said, "libcublasLt.so.13 says that it is version 120903, not 13: its file is wrong");
    });
}

/// A library under the name without a version, as development packages have it, is never asked.
#[test]
fn the_library_of_the_right_version_is_taken_whatever_others_there_are() {
    let test = "gpu::the_library_of_the_right_version_is_taken_whatever_others_there_are";
    Machine::with(1).with_junk("libcublasLt.so").run(test, || {
        rank("qwen3", Arc::new(Solo), &compute(Device::Cuda(0), Dtype::Bf16)).unwrap();
    });
}

#[test]
fn numerics_tell_apart_what_matmuls_add() {
    let test = "gpu::numerics_tell_apart_what_matmuls_add";
    Machine::with(1).run(test, || {
        let config = replica::config("qwen3");
        let line = |dtype| model::numerics(&config, &compute(Device::Cuda(0), dtype), 1).unwrap();
        let bf16 = line(Dtype::Bf16);
        assert!(bf16.starts_with("cuda Fake, sm_90 bf16 cublaslt=130000 matmul="), "{bf16}");
        assert_eq!(bf16, line(Dtype::Bf16));
        assert_ne!(bf16.split(' ').nth(5), line(Dtype::F32).split(' ').nth(5));
    });
}

#[test]
fn a_missing_library_is_named_before_anything_is_loaded() {
    let test = "gpu::a_missing_library_is_named_before_anything_is_loaded";
    for (library, ranks, said) in [
        ("libcuda.so.1", 1, "no NVIDIA driver: libcuda.so.1 is not found"),
        ("libcublasLt.so.13", 1, "libcublasLt.so.13 is not found: install CUDA 13's cuBLAS"),
        ("libnccl.so.2", 2, "NCCL is not there: "),
    ] {
        Machine::with(1).without(library).set("TEST_SAID", said).set("TEST_RANKS", ranks).run(test, || {
            let ranks: usize = fake::told("TEST_RANKS").parse().unwrap();
            let said = refusal("qwen3", Arc::new(Seat::new(0, ranks)));
            assert!(said.starts_with(&fake::told("TEST_SAID")), "{said}");
        });
    }
    // one rank needs no NCCL
    Machine::with(1).without("libnccl.so.2").run("gpu::a_gpu_computes_without_nccl", || {});
}

#[test]
fn a_gpu_computes_without_nccl() {
    Machine::with(1).run("gpu::a_gpu_computes_without_nccl", || {
        let model = rank("qwen3", Arc::new(Solo), &compute(Device::Cuda(0), Dtype::Bf16)).unwrap();
        model.forward(&replica::step(&sequences("qwen3", 2))).unwrap();
    });
}

#[test]
fn gpus_that_are_not_there_or_too_old_are_refused() {
    let test = "gpu::gpus_that_are_not_there_or_too_old_are_refused";
    for (gpus, capability, said) in [
        (0, 9, "there is no GPU 0: this machine has 0"),
        (1, 7, "GPU 0 has compute capability 7.0: 8.0 (Ampere) or newer is needed"),
    ] {
        Machine::with(gpus).set("FAKE_CUDA_CAPABILITY", capability).set("TEST_SAID", said).run(test, || {
            assert_eq!(refusal("qwen3", Arc::new(Solo)), fake::told("TEST_SAID"));
        });
    }
}

#[test]
fn too_little_memory_is_an_error_of_loading() {
    let test = "gpu::too_little_memory_is_an_error_of_loading";
    for (memory, said) in [
        // not even for cuBLASLt
        (16 << 20, "GPU 0 has 0.02 of 0.02 GiB free, 0.03 GiB more are needed"),
        // as planned
        (280 << 20, "this rank needs 0.3 GiB of the GPU's memory, 0.2 GiB are free: weights 0.0 GiB in bf16"),
    ] {
        Machine::with(1).set("FAKE_CUDA_MEMORY", memory).set("TEST_SAID", said).run(test, || {
            let found = refusal("gemma2-v4", Arc::new(Solo));
            assert!(found.starts_with(&fake::told("TEST_SAID")), "{found}");
        });
    }
}

/// Whichever allocation another process is quicker with: an error, and nothing is left behind.
#[test]
fn any_allocation_of_loading_may_fail() {
    Machine::with(1).run("gpu::any_allocation_of_loading_may_fail", || {
        for function in ["cuMemAlloc_v2", "cuMemHostAlloc"] {
            for nth in (1..).step_by(5) {
                fault(&format!("{function} {nth} {OUT_OF_MEMORY}"));
                let loaded = rank("qwen3", Arc::new(Solo), &compute(Device::Cuda(0), Dtype::Bf16));
                let Err(error) = loaded else {
                    fault("nothing 1 1"); // in the place of the one that was not met
                    break;
                };
                let said = error.to_string();
                assert!(said.contains("more are needed") || said.contains("bytes of pinned memory"), "{said}");
            }
        }
    });
}

#[test]
fn a_step_allocates_nothing() {
    Machine::with(2).run("gpu::a_step_allocates_nothing", || {
        let pair = Pair::load("gemma2-v4", [0, 1]);
        // a full step, of sequences as short as there are
        let small = Compute { step_tokens: 256, ..compute(Device::Cuda(0), Dtype::Bf16) };
        let model = rank("gemma2-v4", Arc::new(Solo), &small).unwrap();
        let full = replica::step(&(0..256u32).map(|i| Arc::from([7 + i])).collect::<Vec<_>>());
        for function in ["cuMemAlloc_v2", "cuMemHostAlloc"] {
            fault(&format!("{function} 1 {OUT_OF_MEMORY}"));
            model.forward(&full).unwrap();
            pair.good_step();
            fault("nothing 1 1");
        }
    });
}

#[test]
fn a_rank_that_waits_for_another_is_freed() {
    Machine::with(2).run("gpu::a_rank_that_waits_for_another_is_freed", || {
        for gpus in [[0, 1], [0, 0]] {
            let pair = Pair::load("llama-sharded", gpus);
            let first = pair.good_step();
            // once in the stream, and once while they join
            for _ in 0..2 {
                let waited = Instant::now();
                std::thread::scope(|scope| {
                    let alone = scope.spawn(|| pair.step(&[0]).remove(0));
                    std::thread::sleep(Duration::from_millis(300));
                    assert!(!alone.is_finished(), "there is nobody to add up with");
                    pair.seats[0].leave();
                    let error = alone.join().unwrap().unwrap_err();
                    assert_eq!(error.to_string(), "rank 0 has left the collective");
                });
                assert!(waited.elapsed() < Duration::from_secs(10));
                pair.sit();
            }
            assert_eq!(pair.good_step(), first);
        }
    });
}

/// NCCL is read from a disk and looks at every GPU: it may take longer than all else by which workers meet.
#[test]
fn ranks_that_form_slowly_are_waited_for() {
    Machine::with(2).set("FAKE_NCCL_FORMING", 1500).run("gpu::ranks_that_form_slowly_are_waited_for", || {
        let hasty = |rank| {
            let mut options = worker_on_gpu(rank);
            options.patience.forming = Duration::from_millis(700);
            options
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let start = Instant::now();
        let found = runtime.block_on(worker::score_of_two(hasty(0), hasty(1)));
        assert!(!found.is_empty() && start.elapsed() >= Duration::from_millis(1500));
    });
}

#[test]
fn ranks_that_never_form_are_free_when_their_epoch_ends() {
    let test = "gpu::ranks_that_never_form_are_free_when_their_epoch_ends";
    Machine::with(2).set("FAKE_NCCL_FORMING", 1_000_000).run(test, || {
        let pair = Pair::load("qwen3", [0, 1]);
        std::thread::scope(|scope| {
            let step = scope.spawn(|| pair.step(&[0, 1]));
            std::thread::sleep(Duration::from_millis(500));
            assert!(!step.is_finished(), "they have no communicator");
            let left = Instant::now();
            pair.seats[0].leave();
            for error in step.join().unwrap().into_iter().map(Result::unwrap_err) {
                assert!(error.to_string().ends_with("has left the collective"), "{error}");
            }
            assert!(left.elapsed() < Duration::from_secs(10));
        });
    });
}

/// The step is lost, and the next epoch is as good as the first.
#[test]
fn an_error_of_a_library_is_one_of_its_step() {
    Machine::with(2).run("gpu::an_error_of_a_library_is_one_of_its_step", || {
        let pair = Pair::load("qwen3", [0, 1]);
        let first = pair.good_step();
        for what in [
            format!("cuLaunchKernel 1 {OUT_OF_RESOURCES}"),
            format!("cuLaunchKernel 17 {OUT_OF_RESOURCES}"),
            format!("cuMemcpyHtoDAsync_v2 1 {OUT_OF_RESOURCES}"),
            format!("cuEventRecord 1 {OUT_OF_RESOURCES}"),
            "cublasLtMatmul 9 13".to_owned(),        // execution failed
            "ncclGroupEnd 5 3".to_owned(),           // internal error
            "ncclCommInitRankConfig 1 2".to_owned(), // system error; only what begins an epoch meets it
            "ncclCommGetAsyncError 1 6".to_owned(),  // remote error
        ] {
            fault(&what);
            if what.contains("Init") {
                pair.sit();
            }
            let errors: Vec<String> =
                pair.step(&[0, 1]).into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
            println!("{what}: {errors:?}");
            assert!(errors.iter().any(|error| !error.contains("has left the collective")), "{what}: {errors:?}");
            pair.sit();
            assert_eq!(pair.good_step(), first, "{what}");
        }
    });
}

/// A kernel that fails takes the GPU's context with it: all that is left is to say so, and to end.
#[test]
fn a_kernel_that_fails_is_an_error_of_every_step_after() {
    let test = "gpu::a_kernel_that_fails_is_an_error_of_every_step_after";
    Machine::with(1).excuse("left: ").run(test, || {
        let model = rank("qwen3", Arc::new(Solo), &compute(Device::Cuda(0), Dtype::Bf16)).unwrap();
        let batch = replica::step(&sequences("qwen3", 2));
        model.forward(&batch).unwrap();
        fault(&format!("cuLaunchKernel 20 {ILLEGAL_ADDRESS} late"));
        for _ in 0..4 {
            let said = model.forward(&batch).unwrap_err().to_string();
            assert!(said.starts_with("the device is lost: ") && said.contains("ILLEGAL_ADDRESS"), "{said}");
        }
    });
}

/// In the middle of a probe, after which no epoch could ever be formed again, and while algorithms are tried.
#[test]
fn a_worker_whose_gpu_is_lost_ends_with_an_error() {
    for what in [format!("cuLaunchKernel 30 {ILLEGAL_ADDRESS} late"), format!("cuEventSynchronize 20 {LAUNCH_FAILED}")]
    {
        let machine = Machine::with(1).excuse("left: ").starting_with(&what);
        let mut command = Command::new("timeout");
        command.arg("60").arg(assay::binary()).args(["up", "--device", "cuda", "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0", "--max-batch-tokens", "256", "--model"]).arg(golden("qwen3"));
        let (status, said) = machine.fails(command);
        assert_eq!(status, Some(2), "{what}: {said}");
        assert!(said.contains(" is lost: "), "{what}: {said}");
    }
}

#[test]
fn the_program_scores_on_gpus() {
    let machine = Machine::with(2);
    for flags in [&["--dtype", "f32"][..], &["--tensor-parallel", "2", "--dtype", "f32"]] {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("input.jsonl");
        let rows = expected("gemma2-v4");
        std::fs::write(&input, assay::messages(&rows)).unwrap();
        let mut command = Command::new(assay::binary());
        command.args(["score", "--device", "cuda", "--max-batch-tokens", "4096", "--model"]).arg(golden("gemma2-v4"));
        command.arg("--input").arg(&input).args(flags);
        let printed = machine.call(command);
        let lines: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), rows.len());
        for (line, row) in lines.iter().zip(&rows) {
            let (score, reference) = (line["scores"][0].as_f64().unwrap(), row["score"].as_f64().unwrap());
            assert!((score - reference).abs() / reference.abs().max(1.0) < TOLERANCE, "{score}, not {reference}");
        }
    }
}

/// What tests/gpu/run.py has done on a GPU, as far as it is not about time.
#[test]
fn the_trials_program_runs() {
    let machine = Machine::with(2).set(ALGORITHMS, ALL_ALGORITHMS);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpu"));
        command.args(arguments).arg("--golden").arg(golden(""));
        machine.call(command)
    };
    let described = run(&["device", "--device", "cuda:1"]);
    assert!(described.contains("\"Fake, sm_90\"") && described.contains("\"2.28.0\""), "{described}");
    assert!(described.contains("/libcublasLt.so.13\""), "{described}");
    let config = golden("qwen3").join("config.json");
    let shapes = ["--config", config.to_str().unwrap(), "--step-tokens", "300"];
    let kernels = run(&[&["kernels", "--device", "cuda:0", "--only", "norm,rope"], &shapes[..]].concat());
    let checks = |name: &str| kernels.lines().filter(|line| line.contains(&format!("\"check\":\"{name}"))).count();
    assert_eq!([checks("norm"), checks("rope"), checks("matmul of 300 rows"), checks("attention")], [18, 12, 12, 0]);
    assert!(kernels.lines().all(|line| line.contains("\"holds\":true")), "{kernels}");
    let algorithms = run(&[&["algorithms", "--device", "cuda:0"], &shapes[..]].concat());
    let of = |text: &str| algorithms.lines().filter(|line| line.contains(text)).count();
    // six shapes in two kinds of numbers: two algorithms are good, with other bits; four are not, and one refuses
    assert_eq!([of("\"refused\":null"), of("differs between"), of("status 15")], [24, 36, 12], "{algorithms}");
    small_steps_have_algorithms_of_their_own(&algorithms);
    let found = run(&["nccl", "--device", "cuda:0"]);
    assert!(found.contains("\"one_rank\":[\"exchange\",\"all-gather\"]"), "{found}");
    let found = run(&["tp2", "--device", "cuda:0,1", "--rows", "3"]);
    assert_eq!(found.lines().filter(|line| line.contains("\"dtype\":\"f32\"")).count(), GOLDEN.len(), "{found}");
}

/// The reference is slow for few rows. Of the others, some compute the same for as many rows as they are taken for.
fn small_steps_have_algorithms_of_their_own(algorithms: &str) {
    let mut taken: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for line in algorithms.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let algorithm = &line["algorithm"];
        let id = algorithm["made_of"][0][1].as_u64().unwrap();
        let most = algorithm["taken_for"].as_array().unwrap().iter().map(|most| most.as_u64().unwrap());
        most.for_each(|most| _ = taken.entry(most).or_default().insert(id));
    }
    // on a busy machine the reference, 7, may seem to be the fastest of some
    let good: [(u64, &[u64]); 6] = [
        (128, &[3, 4, 5, 6, 7]),
        (256, &[4, 5, 6, 7]),
        (512, &[4, 6, 7]),
        (1024, &[4, 6, 7]),
        (2048, &[4, 6, 7]),
        (8192, &[7]),
    ];
    assert_eq!(taken.len(), good.len(), "{taken:?}");
    for (most, good) in good {
        assert!(taken[&most].iter().all(|id| good.contains(id)), "{most}: {taken:?}");
        assert!(most == 8192 || taken[&most].len() > 1 || !taken[&most].contains(&7), "{most}: {taken:?}");
    }
}
