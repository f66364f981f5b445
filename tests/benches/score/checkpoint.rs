//! A random Gemma-2 checkpoint, stored in f32 (0.5 GB), with a golden checkpoint's tokenizer.

use std::path::Path;

use model::Config;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::OnDisk;
use crate::random::Random;

pub(crate) const HIDDEN: usize = 1024;
pub(crate) const LAYERS: usize = 8;
pub(crate) const HEADS: usize = 8;
pub(crate) const KV_HEADS: usize = 4;
pub(crate) const HEAD_DIM: usize = 128;
pub(crate) const INTERMEDIATE: usize = 4096;
pub(crate) const VOCAB: usize = 4096;

/// Writes the checkpoint to `folder`.
pub(crate) fn write(folder: &Path) -> OnDisk {
    let config = json!({
        "architectures": ["Gemma2ForSequenceClassification"], "model_type": "gemma2", "id2label": {"0": "LABEL_0"},
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": VOCAB,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": INTERMEDIATE, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192, "sliding_window": 4096, "query_pre_attn_scalar": 144, "pad_token_id": 0,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
    })
    .to_string();
    let path = folder.join("config.json");
    std::fs::write(&path, &config).expect("a writable folder");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(tests::golden("gemma2-v5").join(file), folder.join(file)).expect("the golden tokenizer");
    }
    let mut random = Random::new(0);
    let tensors: Vec<_> = shapes().into_iter().map(|(name, shape)| (name, noise(&mut random, &shape), shape)).collect();
    let views = tensors.iter().map(|(name, bytes, shape)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes that fit the shape"))
    });
    let weights = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &weights).expect("a writable folder");
    let config = Config::parse(&path, &config).expect("a sound config");
    OnDisk { folder: folder.to_owned(), config, weights: vec![weights] }
}

fn shapes() -> Vec<(String, Vec<usize>)> {
    let (queries, keys) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("score.weight".to_owned(), vec![1, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let of_layer = [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("pre_feedforward_layernorm", vec![HIDDEN]),
            ("post_feedforward_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![queries, HIDDEN]),
            ("self_attn.k_proj", vec![keys, HIDDEN]),
            ("self_attn.v_proj", vec![keys, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, queries]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ];
        shapes.extend(of_layer.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    shapes
}

/// Numbers whose products neither grow nor vanish from layer to layer.
fn noise(random: &mut Random, shape: &[usize]) -> Vec<u8> {
    let scale = (3.0 / shape[shape.len() - 1] as f32).sqrt();
    (0..shape.iter().product::<usize>()).flat_map(|_| (random.unit() * scale).to_le_bytes()).collect()
}
