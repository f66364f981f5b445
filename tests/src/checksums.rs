//! A wrong token or a wrong embedded row on one rank fails the conversations that saw it, and no others of the step: on the
//! CPU and on the device that it plays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use collective::{Collective, threads};
use model::{Compute, Config, Device, Dtype, Model, PackedBatch};
use safetensors::SafeTensors;
use score::{Checksum, Disagreement, Partials};
use tests::{GOLDEN, add_up, golden};

use crate::replica;

/// What begins all conversations but the last: too long not to be shared.
const SHARED: usize = 24;

/// Conversations that share a prompt, of different lengths, and one that shares nothing.
fn sequences() -> Vec<Arc<[u32]>> {
    let prompt = 100..100 + SHARED as u32;
    let tail = |first: u32, len: u32| prompt.clone().chain(first..first + len).collect();
    vec![tail(200, 9), tail(300, 40), tail(400, 3), (500..560).collect()]
}

/// A copy of a checkpoint's weights in which the row of a token has another first number.
pub(crate) fn with_another_row(name: &str, token: u32, folder: &Path) -> PathBuf {
    let mut bytes = std::fs::read(golden(name).join("model.safetensors")).unwrap();
    let place = {
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let info = header.info("model.embed_tokens.weight").unwrap();
        let (start, end) = info.data_offsets;
        let row = (end - start) / info.shape[0];
        // the byte with the highest bit of the fraction, in bf16 and in f32
        let byte = row / info.shape[1] - 2;
        bytes.len() - header.data_len() + start + token as usize * row + byte
    };
    bytes[place] ^= 0x40;
    let file = folder.join(format!("{name}.safetensors"));
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Two ranks, the second with weights of its own.
fn ranks(name: &str, compute: &Compute, second: Option<PathBuf>) -> Vec<Model> {
    let folder = golden(name);
    let file = folder.join("config.json");
    let config = Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
    let weights = [folder.join("model.safetensors"), second.unwrap_or_else(|| folder.join("model.safetensors"))];
    let load = |(end, weights): (_, &PathBuf)| {
        Model::load(&config, std::slice::from_ref(weights), Arc::new(end) as Arc<dyn Collective>, compute).unwrap().0
    };
    threads(2).into_iter().zip(&weights).map(load).collect()
}

/// What two ranks contribute to a step that each is given for itself.
fn compute(ranks: &[Model], batches: [&PackedBatch; 2], checksum: Checksum) -> Vec<Partials> {
    std::thread::scope(|scope| {
        let run = |(rank, batch): (&'_ Model, &'_ PackedBatch)| rank.submit(batch, checksum).unwrap().wait().unwrap();
        let started: Vec<_> = ranks.iter().zip(batches).map(|it| scope.spawn(move || run(it))).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Which conversations have a score; the others are to say why not.
fn scored(partials: &[Partials]) -> Vec<bool> {
    let one = |place| match add_up(partials, place) {
        Ok(_) => true,
        Err(disagreement) => {
            assert_eq!(disagreement, Disagreement::Checksum { rank: 1 });
            false
        }
    };
    (0..partials[0].len()).map(one).collect()
}

fn devices() -> [Compute; 3] {
    let host = |dtype| Compute { device: Device::HostKernels, dtype, step_tokens: 1024 };
    [Compute::default(), host(Dtype::F32), host(Dtype::Bf16)]
}

/// Checkpoints of one file.
fn checkpoints() -> impl Iterator<Item = &'static str> {
    GOLDEN.into_iter().filter(|name| golden(name).join("model.safetensors").exists())
}

#[test]
fn a_wrong_context_token_on_one_rank_fails_those_that_saw_it() {
    for (name, device) in checkpoints().flat_map(|name| devices().map(|device| (name, device))) {
        let ranks = ranks(name, &device, None);
        let good = replica::step(&sequences());
        let with = |token: u32| {
            let mut other = good.clone();
            let place = other.tokens.iter().position(|&it| it == token).unwrap();
            other.tokens[place] += 50;
            other
        };
        let run = |other: &PackedBatch, checksum| scored(&compute(&ranks, [&good, other], checksum));
        assert_eq!(run(&good, Checksum::Path), [true; 4], "{name}, {device:?}");
        // in the prompt, in the middle of one conversation, and where one ends
        assert_eq!(run(&with(105), Checksum::Path), [false, false, false, true], "{name}, {device:?}");
        assert_eq!(run(&with(310), Checksum::Path), [true, false, true, true], "{name}, {device:?}");
        assert_eq!(run(&with(402), Checksum::Path), [true, true, false, true], "{name}, {device:?}");
        // the pooled rows are the same on both ranks, and wrong
        if device.device == Device::Cpu {
            assert_eq!(run(&with(310), Checksum::Row), [true; 4], "{name}, {device:?}");
        }
    }
}

#[test]
fn a_wrong_embedded_row_on_one_rank_fails_those_that_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, device) in checkpoints().flat_map(|name| devices().map(|device| (name, device))) {
        let other = with_another_row(name, 310, folder.path());
        let ranks = ranks(name, &device, Some(other));
        let good = replica::step(&sequences());
        let found = scored(&compute(&ranks, [&good, &good], Checksum::Path));
        assert_eq!(found, [true, false, true, true], "{name}, {device:?}");
    }
}
