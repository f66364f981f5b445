//! Both layouts of config.json, published models, what is refused and by which name, and files that are broken.

use proptest::prelude::*;

use super::*;

const FILE: &str = "models/some/config.json";

fn parse(config: &Value) -> Result<Config> {
    Config::parse(Path::new(FILE), &config.to_string())
}

fn sound(config: &Value) -> Config {
    parse(config).unwrap()
}

fn with(mut config: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("not an object") };
    config.as_object_mut().unwrap().extend(fields);
    config
}

fn without(mut config: Value, name: &str) -> Value {
    config.as_object_mut().unwrap().remove(name).unwrap();
    config
}

/// Skywork-Reward-Gemma-2-27B, as transformers 4 wrote it.
fn gemma2_v4() -> Value {
    json!({
        "architectures": ["Gemma2ForSequenceClassification"], "model_type": "gemma2",
        "hidden_size": 4608, "intermediate_size": 36864, "num_hidden_layers": 46,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
        "vocab_size": 256000, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "query_pre_attn_scalar": 144, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
        "sliding_window": 4096, "sliding_window_size": 4096, "cache_implementation": "hybrid",
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": true,
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "torch_dtype": "bfloat16",
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "transformers_version": "4.44.2",
    })
}

fn gemma2_v5() -> Value {
    let types: Vec<_> = ["sliding_attention", "full_attention"].into_iter().cycle().take(46).collect();
    let mut config = gemma2_v4();
    for name in ["rope_theta", "torch_dtype", "hidden_act", "sliding_window_size", "cache_implementation"] {
        config = without(config, name);
    }
    with(
        config,
        json!({
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "dtype": "bfloat16",
            "layer_types": types, "use_bidirectional_attention": null,
        }),
    )
}

/// Skywork-Reward-Llama-3.1-8B, as transformers 4 wrote it.
fn llama_v4() -> Value {
    json!({
        "architectures": ["LlamaForSequenceClassification"], "model_type": "llama",
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": llama3(), "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "pretraining_tp": 1, "id2label": {"0": "LABEL_0"}, "torch_dtype": "bfloat16", "tie_word_embeddings": false,
    })
}

fn llama3() -> Value {
    json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    })
}

fn llama_v5() -> Value {
    let parameters = with(llama3(), json!({"rope_theta": 500000.0}));
    let config = without(without(without(llama_v4(), "rope_theta"), "rope_scaling"), "torch_dtype");
    with(config, json!({"rope_parameters": parameters, "dtype": "bfloat16"}))
}

fn qwen3_v4() -> Value {
    json!({
        "architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3",
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
        "rope_scaling": null, "hidden_act": "silu", "attention_bias": false, "use_sliding_window": false,
        "sliding_window": null, "max_window_layers": 28, "id2label": {"0": "LABEL_0"}, "torch_dtype": "bfloat16",
    })
}

fn qwen3_v5() -> Value {
    let config = without(without(without(qwen3_v4(), "rope_theta"), "rope_scaling"), "torch_dtype");
    let parameters = json!({"rope_theta": 1000000, "rope_type": "default"});
    let types = vec!["full_attention"; 28];
    with(config, json!({"rope_parameters": parameters, "dtype": "bfloat16", "layer_types": types}))
}

/// A reward model on Qwen2.5-7B, as transformers 4 wrote it.
fn qwen2_v4() -> Value {
    json!({
        "architectures": ["Qwen2ForSequenceClassification"], "model_type": "qwen2",
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu", "attention_dropout": 0.0,
        "use_sliding_window": false, "sliding_window": 131072, "max_window_layers": 28, "use_mrope": false,
        "id2label": {"0": "LABEL_0"}, "torch_dtype": "bfloat16", "tie_word_embeddings": false,
    })
}

fn qwen2_v5() -> Value {
    let config = with(without(without(qwen2_v4(), "rope_theta"), "torch_dtype"), json!({"sliding_window": null}));
    let parameters = json!({"rope_theta": 1000000.0, "rope_type": "default"});
    with(config, json!({"rope_parameters": parameters, "dtype": "bfloat16", "layer_types": vec!["full_attention"; 28]}))
}

/// A reward model on Mistral-7B-v0.1, as transformers 4 wrote it.
fn mistral_v4() -> Value {
    json!({
        "architectures": ["MistralForSequenceClassification"], "model_type": "mistral",
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "attention_dropout": 0.0,
        "sliding_window": 4096, "id2label": {"0": "LABEL_0"}, "torch_dtype": "bfloat16", "pad_token_id": 2,
    })
}

fn mistral_v5() -> Value {
    let parameters = json!({"rope_theta": 10000.0, "rope_type": "default"});
    let config = without(without(mistral_v4(), "rope_theta"), "torch_dtype");
    with(config, json!({"rope_parameters": parameters, "dtype": "bfloat16", "head_dim": null}))
}

fn all() -> [Value; 10] {
    [
        gemma2_v4(),
        gemma2_v5(),
        llama_v4(),
        llama_v5(),
        mistral_v4(),
        mistral_v5(),
        qwen2_v4(),
        qwen2_v5(),
        qwen3_v4(),
        qwen3_v5(),
    ]
}

fn named(name: &str) -> &'static Blueprint {
    architectures::ALL.iter().find(|blueprint| blueprint.name == name).unwrap()
}

#[test]
fn both_layouts_mean_the_same() {
    assert_eq!(sound(&gemma2_v4()), sound(&gemma2_v5()));
    assert_eq!(sound(&llama_v4()), sound(&llama_v5()));
    assert_eq!(sound(&qwen3_v4()), sound(&qwen3_v5()));
    assert_eq!(sound(&qwen2_v4()), sound(&qwen2_v5()));
    assert_eq!(sound(&mistral_v4()), sound(&mistral_v5()));
}

#[test]
fn the_27b_is_read_as_published() {
    let config = sound(&gemma2_v4());
    let windows: Vec<_> = (0..46).map(|layer| (layer % 2 == 0).then_some(4096)).collect();
    assert_eq!(
        config,
        Config {
            blueprint: named("Gemma2"),
            hidden: 4608,
            intermediate: 36864,
            heads: 32,
            kv_heads: 16,
            head_dim: 128,
            vocab: 256_000,
            max_positions: 8192,
            norm_eps: 1e-6,
            rope: Rope { theta: 1e4, llama3: None },
            attention_scale: 1.0 / 12.0,
            soft_cap: Some(50.0),
            windows,
        }
    );
    // Gemma-2-27B has 27,227,128,320, to which the score head adds one row
    assert_eq!(config.parameters(), 27_227_128_320 + 4608);
    // two ranks hold the embedding, four norms a layer and the last one twice
    let whole = 256_000 * 4608 + 46 * 4 * 4608 + 4608;
    assert_eq!(2 * config.parameters_of_rank(2), config.parameters() + whole);
    assert_eq!(config.layers(), 46);
    assert!((config.matmul_flops_per_token() / 52.1e9 - 1.0).abs() < 1e-3);
}

#[test]
fn the_8b_is_read_as_published() {
    let config = sound(&llama_v4());
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    assert_eq!(
        config,
        Config {
            blueprint: named("Llama"),
            hidden: 4096,
            intermediate: 14336,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            vocab: 128_256,
            max_positions: 131_072,
            norm_eps: 1e-5,
            rope: Rope { theta: 5e5, llama3: Some(scaling) },
            attention_scale: 128f64.powf(-0.5),
            soft_cap: None,
            windows: vec![None; 32],
        }
    );
    // Llama-3.1-8B has 8,030,261,248; the language-model head goes, the score head comes
    assert_eq!(config.parameters(), 8_030_261_248 - 128_256 * 4096 + 4096);
}

#[test]
fn qwen3_counts_its_query_and_key_norms() {
    // Qwen3-0.6B has 596,049,920, with the language-model head tied to the embedding
    assert_eq!(sound(&qwen3_v4()).parameters(), 596_049_920 + 1024);
}

#[test]
fn qwen2_counts_its_biases() {
    // Qwen2.5-7B has 7,615,616,512; the language-model head goes, the score head comes
    let config = sound(&qwen2_v4());
    assert_eq!(config.parameters(), 7_615_616_512 - 152_064 * 3584 + 3584);
    // a rank of two holds half of each bias
    let whole = 152_064 * 3584 + (28 * 2 + 1) * 3584;
    assert_eq!(2 * config.parameters_of_rank(2), config.parameters() + whole);
}

#[test]
fn mistral_has_as_many_parameters_as_published() {
    // Mistral-7B-v0.1 has 7,241,732,096
    assert_eq!(sound(&mistral_v4()).parameters(), 7_241_732_096 - 32_000 * 4096 + 4096);
}

#[test]
fn windows_are_where_transformers_has_them() {
    let windows = |config: Value| sound(&config).windows;
    let qwen = |fields| windows(with(qwen2_v4(), fields));
    assert_eq!(windows(mistral_v4()), vec![Some(4096); 32]);
    assert_eq!(windows(without(mistral_v4(), "sliding_window")), vec![Some(4096); 32]);
    // Mistral-7B-v0.2 and later
    assert_eq!(windows(with(mistral_v4(), json!({"sliding_window": null}))), vec![None; 32]);
    assert_eq!(qwen(json!({})), vec![None; 28]);
    let from_20: Vec<_> = (0..28).map(|layer| (layer >= 20).then_some(131_072)).collect();
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 20})), from_20);
    assert_eq!(qwen(json!({"use_sliding_window": true})), vec![None; 28]);
    let mut types = vec!["full_attention"; 28];
    types[3] = "sliding_attention";
    let third = qwen(json!({"use_sliding_window": true, "sliding_window": 64, "layer_types": types}));
    assert_eq!(third, (0..28).map(|layer| (layer == 3).then_some(64)).collect::<Vec<_>>());
    let qwen3 = json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 27});
    assert_eq!(windows(with(qwen3_v4(), qwen3))[26..], [None, Some(64)]);
}

#[test]
fn the_fields_decide_and_not_the_usual_values() {
    let gemma = |fields| sound(&with(gemma2_v4(), fields));
    assert_eq!(gemma(json!({"query_pre_attn_scalar": 256})).attention_scale, 1.0 / 16.0);
    assert_eq!(gemma(json!({"attn_logit_softcapping": 20.0})).soft_cap, Some(20.0));
    assert_eq!(gemma(json!({"attn_logit_softcapping": null})).soft_cap, None);
    assert_eq!(gemma(json!({"sliding_window": 24})).windows[..2], [Some(24), None]);
    assert_eq!(gemma(json!({"rms_norm_eps": 1e-3})).norm_eps, 1e-3);
    assert_eq!(gemma(json!({"rope_theta": 5e3})).rope.theta, 5e3);
    let mut types = vec!["full_attention"; 46];
    types[45] = "sliding_attention";
    let windows = gemma(json!({"layer_types": types})).windows;
    assert_eq!((windows[44], windows[45]), (None, Some(4096)));
    let llama = |fields| sound(&with(llama_v4(), fields));
    assert_eq!(llama(json!({"head_dim": 64})).attention_scale, 1.0 / 8.0);
    // one label, said by the field where id2label is absent
    assert_eq!(sound(&with(without(llama_v4(), "id2label"), json!({"num_labels": 1}))), sound(&llama_v4()));
    // the older name of rope_type, and a theta beside the parameters
    let scaling = with(without(llama3(), "rope_type"), json!({"type": "llama3"}));
    assert_eq!(llama(json!({"rope_scaling": scaling})), sound(&llama_v4()));
    let inner = with(llama3(), json!({"rope_theta": 3e4}));
    assert_eq!(llama(json!({"rope_scaling": inner})).rope.theta, 3e4);
}

#[test]
fn absent_fields_mean_what_transformers_takes_them_for() {
    let gemma = |name| sound(&without(gemma2_v4(), name));
    assert_eq!(gemma("attn_logit_softcapping").soft_cap, Some(50.0));
    assert_eq!(gemma("query_pre_attn_scalar").attention_scale, 1.0 / 16.0);
    assert_eq!(gemma("head_dim").head_dim, 256);
    assert_eq!(gemma("sliding_window").windows[..2], [Some(4096), None]);
    assert_eq!(gemma("rms_norm_eps").norm_eps, 1e-6);
    assert_eq!(gemma("rope_theta").rope, Rope { theta: 1e4, llama3: None });
    assert_eq!(gemma("num_key_value_heads").kv_heads, 4);
    assert_eq!(sound(&without(llama_v4(), "num_key_value_heads")).kv_heads, 32);
    assert_eq!(sound(&without(mistral_v4(), "num_key_value_heads")).kv_heads, 8);
    assert_eq!(sound(&with(mistral_v4(), json!({"num_key_value_heads": null}))).kv_heads, 32);
    for name in ["hidden_activation", "attention_bias", "model_type", "hidden_act"] {
        assert_eq!(gemma(name), sound(&gemma2_v4()), "{name}");
    }
    let narrower = without(with(llama_v4(), json!({"hidden_size": 2048})), "head_dim");
    assert_eq!(sound(&narrower).head_dim, 64);
    assert_eq!(sound(&narrower).attention_scale, 1.0 / 8.0);
    let qwen = without(with(qwen3_v4(), json!({"hidden_size": 2048})), "head_dim");
    assert_eq!(sound(&qwen).head_dim, 128);
}

#[test]
fn every_required_field_is_asked_for_by_name() {
    for name in [
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for config in [without(llama_v4(), name), with(llama_v4(), json!({ name: null }))] {
            assert_eq!(parse(&config).unwrap_err().to_string(), format!("{FILE}: {name} is missing"));
        }
    }
    let unlabelled = parse(&without(llama_v4(), "id2label")).unwrap_err().to_string();
    assert!(unlabelled.contains("num_labels is 2"), "{unlabelled}");
}

/// Refuses `config` with each of the fields replaced, naming the file, the field and what the error is about.
fn refuses(config: &Value, cases: Value) {
    for case in cases.as_array().unwrap() {
        let (fields, words) = (&case[0], case[1].as_str().unwrap());
        let Err(error) = parse(&with(config.clone(), fields.clone())) else { panic!("{fields} was taken") };
        assert!(matches!(&error, Error::Config { file, .. } if file == Path::new(FILE)), "{fields}: {error:?}");
        let (name, message) = (fields.as_object().unwrap().keys().next().unwrap(), error.to_string());
        for part in [FILE, name, words] {
            assert!(message.contains(part), "{fields}: no {part:?} in {message:?}");
        }
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for config in all() {
        refuses(
            &config,
            json!([
                [{"attention_bias": true}, "is true, which is not implemented"],
                [{"quantization_config": {"quant_method": "gptq"}}, "gptq"],
                [{"is_encoder_decoder": true}, "true"],
                [{"add_cross_attention": true}, "true"],
                [{"architectures": ["InternLM2ForRewardModel"]}, "InternLM2"],
                [{"value_head_prefix": "value"}, "implemented: \"score\""],
                [{"per_layer_config": {"3": {"head_dim": 64}}}, "is {\"3\""],
                [{"mystery": 0}, "is 0"],
                [{"architectures": ["LlamaForCausalLM"]}, "Qwen3ForSequenceClassification"],
                [{"architectures": []}, "implemented"],
                [{"architectures": "Gemma2ForSequenceClassification"}, "expected a sequence"],
                [{"model_type": "phi3"}, "phi3"],
                [{"num_labels": 2}, "2"],
                [{"num_labels": 0}, "0"],
                [{"id2label": {"0": "a", "1": "b"}}, "num_labels is 2"],
                [{"id2label": {}}, "num_labels is 0"],
                [{"id2label": ["a"]}, "expected a map"],
                [{"layer_types": ["full_attention"]}, "names 1 layers"],
                [{"layer_types": []}, "names 0 layers"],
                [{"layer_types": "full_attention"}, "expected a sequence"],
            ]),
        );
    }
    let with_types = |config: Value, kind: &str| {
        let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
        (config, vec![kind.to_owned(); layers])
    };
    for (config, types) in [
        with_types(gemma2_v5(), "chunked_attention"),
        with_types(llama_v4(), "sliding_attention"),
        with_types(qwen3_v5(), "linear_attention"),
        with_types(qwen2_v4(), "sliding_attention"),
        // transformers has a window there whatever they say
        with_types(mistral_v4(), "full_attention"),
    ] {
        refuses(&config, json!([[{"layer_types": types}, types[0]]]));
    }
    refuses(
        &gemma2_v4(),
        json!([
            [{"hidden_activation": "gelu"}, "gelu_pytorch_tanh"],
            [{"use_bidirectional_attention": true}, "true"],
            [{"model_type": "gemma"}, "gemma2"],
            [{"sliding_window": 0}, "0"],
            [{"sliding_window": 16_777_217}, "expected 1 to 16777216"],
        ]),
    );
    refuses(
        &llama_v4(),
        json!([[{"mlp_bias": true}, "true"], [{"sliding_window": 4096}, "4096"], [{"hidden_act": "gelu"}, "silu"], [{"model_type": "qwen3"}, "llama"]]),
    );
    refuses(&qwen3_v4(), json!([[{"use_sliding_window": 1}, "invalid type"], [{"hidden_act": "relu"}, "silu"]]));
}

#[test]
fn rope_scaling_wins_over_rope_parameters_unless_it_is_empty() {
    let both = |scaling: Value| with(llama_v5(), json!({"rope_theta": 3e4, "rope_scaling": scaling}));
    assert_eq!(parse(&both(json!({"rope_type": "default"}))).unwrap().rope, Rope { theta: 3e4, llama3: None });
    assert_eq!(parse(&both(json!({}))).unwrap().rope, parse(&llama_v5()).unwrap().rope);
    assert_eq!(parse(&both(Value::Null)).unwrap().rope, parse(&llama_v5()).unwrap().rope);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    for (scaling, kind) in [(yarn, "yarn"), (json!({"type": "linear", "factor": 4.0}), "linear")] {
        let error = parse(&both(scaling)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(kind) && error.contains("rope_type"), "{error}");
    }
}

#[test]
fn rope_that_is_not_implemented_is_refused() {
    // the name of a parameter is what helps: it is in the message, the field that holds it need not be
    let refused = |parameters: Value, words: &str| {
        let v4 = parse(&with(llama_v4(), json!({"rope_scaling": parameters})));
        let v5 = parse(&with(llama_v5(), json!({"rope_parameters": parameters})));
        for result in [v4, v5] {
            let Err(error) = result else { panic!("{parameters} was taken") };
            let message = error.to_string();
            assert!(message.starts_with(FILE) && message.contains(words), "{parameters}: {message}");
        }
    };
    let changed = |fields| with(llama3(), fields);
    refused(changed(json!({"rope_type": "yarn"})), "rope_type is \"yarn\"");
    refused(json!({"type": "linear", "factor": 2.0}), "\"linear\"");
    refused(json!({"rope_type": "default", "factor": 2.0}), "factor");
    refused(json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor");
    refused(json!({"full_attention": {"rope_type": "default"}}), "full_attention");
    refused(changed(json!({"attention_factor": 1.0})), "attention_factor");
    refused(changed(json!({"factor": 0.0})), "factor");
    refused(changed(json!({"factor": -8.0})), "factor");
    refused(changed(json!({"factor": "8"})), "llama3");
    refused(changed(json!({"low_freq_factor": 4.0})), "low_freq_factor");
    refused(changed(json!({"original_max_position_embeddings": 0})), "original_max_position_embeddings");
    refused(changed(json!({"rope_theta": 0.0})), "rope_theta");
    refused(changed(json!({"rope_theta": -1.0})), "rope_theta");
    refused(changed(json!({"rope_theta": "500000"})), "rope_theta");
    refused(changed(json!({"rope_type": 3})), "rope_type");
    refused(json!({"rope_type": null, "type": "yarn"}), "yarn");
    for name in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        refused(without(llama3(), name), name);
    }
    refused(json!([]), "rope_");
    refused(json!("llama3"), "rope_");
    refuses(&gemma2_v4(), json!([[{"rope_theta": 0.0}, ""], [{"rope_theta": -1e4}, ""], [{"rope_theta": "1e4"}, ""]]));
}

#[test]
fn sizes_that_no_model_has_are_refused() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ];
    for config in all() {
        for name in sizes {
            let huge = json!(u64::MAX);
            refuses(
                &config,
                json!([
                    [{name: 0}, "0"], [{name: 16_777_217}, "16777217"], [{name: huge}, huge.to_string()],
                    [{name: -1}, "-1"], [{name: 4.5}, "4.5"], [{name: "8"}, "8"], [{name: [8]}, "expected"],
                ]),
            );
        }
        refuses(
            &config,
            json!([
                [{"num_key_value_heads": 5}, "no multiple of num_key_value_heads 5"],
                [{"num_key_value_heads": 64}, "no multiple"],
                [{"head_dim": 127}, "odd"],
                [{"rms_norm_eps": -1e-6}, "positive"],
                [{"rms_norm_eps": 0.0}, "positive"],
                [{"rms_norm_eps": 1e300}, "positive"],
                [{"rms_norm_eps": "1e-6"}, "invalid type"],
            ]),
        );
    }
    refuses(
        &gemma2_v4(),
        json!([
            [{"query_pre_attn_scalar": 0}, "positive"], [{"query_pre_attn_scalar": -144}, "positive"],
            [{"attn_logit_softcapping": 0.0}, "positive"], [{"attn_logit_softcapping": -50.0}, "positive"],
            [{"attn_logit_softcapping": "50"}, "invalid type"], [{"sliding_window": -1}, "-1"],
        ]),
    );
}

#[test]
fn the_largest_sizes_do_not_overflow() {
    let largest = json!(LARGEST_SIZE);
    let config = with(
        llama_v4(),
        json!({
            "hidden_size": largest, "intermediate_size": largest, "vocab_size": largest, "num_hidden_layers": MOST_LAYERS,
            "num_attention_heads": LARGEST_SIZE / 128, "num_key_value_heads": LARGEST_SIZE / 128, "head_dim": 128,
        }),
    );
    let config = sound(&config);
    assert!(config.parameters() as f64 > 1e18 && config.matmul_flops_per_token() > 1e18);
    refuses(&with(llama_v4(), json!({"num_attention_heads": largest})), json!([[{"head_dim": 128}, "head_dim"]]));
}

#[test]
fn an_unknown_field_is_refused_unless_it_says_nothing() {
    for config in all() {
        let off = json!({"a": null, "b": false, "c": "", "d": [], "e": {}});
        assert_eq!(sound(&with(config.clone(), off)), sound(&config));
        for on in [json!(0.5), json!(0), json!(true), json!("x"), json!([0]), json!({"x": null})] {
            let expected =
                format!("{FILE}: mystery is {on}, which is not implemented for {}", sound(&config).blueprint.name);
            let said = parse(&with(config.clone(), json!({"mystery": on}))).unwrap_err().to_string();
            assert!(said.starts_with(&expected), "{said}");
        }
    }
    // a field of another architecture is unknown to this one
    refuses(&llama_v4(), json!([[{"attn_logit_softcapping": 50.0}, "not implemented for Llama"]]));
}

#[test]
fn what_has_no_part_in_the_scores_may_be_there() {
    let more = json!({
        "max_length": 4096, "temperature": 0.6, "do_sample": true, "_attn_implementation": "sdpa", "num_labels": 1,
        "problem_type": "regression", "gradient_checkpointing": true, "value_head_prefix": "score", "mean": 0.3, "std": 2,
    });
    for config in all() {
        assert_eq!(sound(&with(config.clone(), more.clone())), sound(&config));
    }
}

#[test]
fn world_sizes_that_fit_are_named() {
    let config = sound(&gemma2_v4());
    for world_size in [1, 2, 4, 8, 16] {
        config.check_world_size(world_size).unwrap();
    }
    let message = |config: &Config, world_size| config.check_world_size(world_size).unwrap_err().to_string();
    let fitting = "world sizes that fit this model: 1, 2, 4, 8, 16";
    assert_eq!(message(&config, 3), format!("heads 32 cannot be split over 3 ranks; {fitting}"));
    assert_eq!(message(&config, 32), format!("kv_heads 16 cannot be split over 32 ranks; {fitting}"));
    assert_eq!(message(&config, 0), format!("heads 32 cannot be split over 0 ranks; {fitting}"));
    let odd = sound(&with(llama_v4(), json!({"intermediate_size": 14334})));
    let expected = "intermediate 14334 cannot be split over 4 ranks; world sizes that fit this model: 1, 2";
    assert_eq!(message(&odd, 4), expected);
}

#[test]
fn what_is_not_a_json_object_is_an_error_with_the_file() {
    for text in ["", "{", "[]", "3", "null", "\"x\"", "{\"a\": 1,}", "{} {}", "\u{0}", "{\"architectures\": [\"Llama"] {
        let error = Config::parse(Path::new(FILE), text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{FILE}: not a JSON object: ")), "{text}: {error}");
    }
}

/// Whatever the text is: a config whose numbers can be used, or an error that names the file.
fn survives(text: &str) {
    match Config::parse(Path::new(FILE), text) {
        Ok(config) => {
            assert!(config.parameters() > 0 && config.matmul_flops_per_token() > 0.0 && config.layers() > 0);
            assert!(config.check_world_size(1).is_ok() && config.check_world_size(usize::MAX).is_err());
        }
        Err(error) => assert!(error.to_string().starts_with(FILE), "{error}"),
    }
}

fn published() -> impl Strategy<Value = Value> {
    prop::sample::select(all().to_vec())
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u32..40).prop_map(|power| json!(1u64 << power)),
        any::<f64>().prop_map(Value::from),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
    ];
    let nested = leaf.clone();
    prop_oneof![
        leaf,
        prop::collection::vec(nested.clone(), 0..4).prop_map(Value::from),
        prop::collection::hash_map("rope_type|rope_theta|factor|type|0", nested, 0..3).prop_map(|map| json!(map)),
    ]
}

proptest! {
    #[test]
    fn no_field_panics(config in published(), changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4)) {
        let mut config = config;
        let names: Vec<_> = config.as_object().unwrap().keys().cloned().collect();
        for (index, value) in changes {
            config[index.get(&names)] = value;
        }
        survives(&config.to_string());
    }

    #[test]
    fn no_damage_panics(config in published(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = config.to_string().into_bytes();
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        survives(&text);
        survives(&String::from_utf8_lossy(&bytes));
    }
}
