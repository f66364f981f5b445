//! Which class reads a tokenizer; what the classes make of the files is compared with transformers in the encoder's tests.

use super::*;

fn class(tokenizer_class: &str, model_type: &str, byte_level: bool) -> Result<Class, Error> {
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let names = Names { tokenizer_class: named(tokenizer_class), config_class: None, model_type: named(model_type) };
    names.class(byte_level)
}

#[test]
fn the_class_is_the_one_that_transformers_takes() {
    for (tokenizer_class, model_type, byte_level, expected) in [
        ("", "", true, Class::File),
        ("", "llama", false, Class::File),
        ("", "gemma2", false, Class::Gemma),
        ("", "qwen3", true, Class::Qwen2),
        ("PreTrainedTokenizerFast", "gemma2", false, Class::File),
        ("GemmaTokenizerFast", "gemma2", false, Class::Gemma),
        ("GemmaTokenizer", "llama", false, Class::Gemma),
        ("LlamaTokenizerFast", "llama", true, Class::File),
        ("LlamaTokenizerFast", "llama", false, Class::Llama),
        ("LlamaTokenizer", "mistral", false, Class::File),
        ("GPT2Tokenizer", "llama", true, Class::Gpt2),
        ("LlamaTokenizer", "qwen2", true, Class::Qwen2),
        ("Unheard", "qwen3", true, Class::File),
    ] {
        assert_eq!(class(tokenizer_class, model_type, byte_level), Ok(expected), "{tokenizer_class} {model_type}");
    }
    assert_eq!(class("CohereTokenizerFast", "llama", true), Err(Error::Class("CohereTokenizer".to_owned())));
}
