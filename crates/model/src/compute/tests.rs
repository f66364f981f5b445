//! What is refused before anything is loaded, and what is said then; steps that are ready, and that will be.

use std::path::Path;
use std::sync::mpsc::channel;

use score::Partials;

use super::*;
use crate::Pending;
use crate::numerics;

fn config(name: &str, model_type: &str) -> Config {
    let text = format!(
        r#"{{"architectures": ["{name}ForSequenceClassification"], "model_type": "{model_type}", "num_labels": 1,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
        "vocab_size": 100, "max_position_embeddings": 512}}"#
    );
    Config::parse(Path::new("config.json"), &text).unwrap()
}

#[test]
fn a_cpu_computes_in_f32_and_a_gpu_usually_in_bf16() {
    let dtype = |device, dtype| Compute::new(device, dtype, 8).map(|compute| compute.dtype);
    assert_eq!(dtype(Device::Cpu, None).unwrap(), Dtype::F32);
    assert_eq!(dtype(Device::Cpu, Some(Dtype::F32)).unwrap(), Dtype::F32);
    assert_eq!(dtype(Device::Cuda(3), None).unwrap(), Dtype::Bf16);
    assert_eq!(dtype(Device::Cuda(3), Some(Dtype::F16)).unwrap(), Dtype::F16);
    for wrong in [Dtype::Bf16, Dtype::F16] {
        let said = format!("a CPU computes in f32 only, not in {wrong}: choose dtype f32, or device cuda");
        assert_eq!(dtype(Device::Cpu, Some(wrong)).unwrap_err().to_string(), said);
        let compute = Compute { dtype: wrong, ..Compute::default() };
        assert_eq!(compute.check(&config("Llama", "llama")).unwrap_err().to_string(), said);
    }
    let line = numerics(&config("Llama", "llama"), &Compute::default(), 2).unwrap();
    assert!(line.starts_with("cpu f32 lanes=") && line.contains(" tp=2 "), "{line}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_how_to_get_one_with_it() {
    let compute = Compute::new(Device::Cuda(0), None, 8).unwrap();
    let said = "this assay was built without CUDA: build it with `make cuda`";
    assert_eq!(compute.check_here().unwrap_err().to_string(), said);
    assert_eq!(numerics(&config("Llama", "llama"), &compute, 1).unwrap_err().to_string(), said);
}

#[test]
fn gemma2_is_beyond_the_range_of_f16() {
    let check = |dtype, name, model_type| {
        Compute::new(Device::Cuda(0), Some(dtype), 8).unwrap().check(&config(name, model_type))
    };
    let said = check(Dtype::F16, "Gemma2", "gemma2").unwrap_err().to_string();
    assert!(said.contains("Gemma-2") && said.contains("65504") && said.contains("bf16 or f32"), "{said}");
    for fits in [check(Dtype::F16, "Llama", "llama"), check(Dtype::F16, "Qwen3", "qwen3")] {
        fits.unwrap();
    }
    check(Dtype::Bf16, "Gemma2", "gemma2").unwrap();
}

#[test]
fn a_step_is_waited_for_on_any_thread() {
    let logits = |logit| Partials::new(1, vec![logit], vec![7]).unwrap();
    assert_eq!(Pending::ready(logits(1.0)).wait().unwrap(), logits(1.0));
    let (sender, inbox) = channel();
    let pending = Pending::later(move || inbox.recv().map_err(|error| Error::Device(error.to_string())));
    let waiting = std::thread::spawn(|| pending.wait());
    sender.send(logits(2.0)).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), logits(2.0));
}
