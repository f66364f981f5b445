//! `assay inspect`: what a model is, and what it would read.

use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use model::{Compute, Config, Device};
use prompt::{Bos, Input, Options};
use serde_json::{Map, Value};

use crate::args::Inspect;
use crate::opened::{Opened, numerics};

/// Runs the command.
pub(crate) fn run(args: &Inspect) -> Result<ExitCode> {
    let opened = Opened::open(&args.model.choice())?;
    let options = opened.options(&args.limits, usize::MAX)?;
    let mut output = stdout().lock();
    match &args.input {
        None => {
            let computes = args.compute.computes(args.tensor_parallel, usize::MAX)?;
            opened.config.check_world_size(computes.len())?;
            computes.iter().try_for_each(|compute| compute.check(&opened.config))?;
            describe(&mut output, &opened, &computes)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(path) => {
            let sound = show_all(&mut output, &opened, &options, path)?;
            Ok(ExitCode::from(if sound { 0 } else { crate::SOME_FAILED }))
        }
    }
}

fn describe(output: &mut impl Write, opened: &Opened, computes: &[Compute]) -> Result<()> {
    let config = &opened.config;
    let windows = config.windows.iter().filter(|window| window.is_some()).count();
    let fits: Vec<_> = (1..=config.kv_heads).filter(|&world| config.check_world_size(world).is_ok()).collect();
    let template = opened.encoder.template_source().map_or_else(|| "none".to_owned(), ToString::to_string);
    let (numerics, fingerprint) = identity(opened, computes)?;
    let rows = [
        ("model", opened.checkpoint.source.to_string()),
        (
            "architecture",
            format!(
                "{}, {} layers, hidden {}, intermediate {}",
                config.blueprint.name,
                config.layers(),
                config.hidden,
                config.intermediate
            ),
        ),
        (
            "attention",
            format!(
                "{} heads, {} key/value heads, head_dim {}, scale {:.6}",
                config.heads, config.kv_heads, config.head_dim, config.attention_scale
            ),
        ),
        ("soft-cap", config.soft_cap.map_or_else(|| "none".to_owned(), |cap| cap.to_string())),
        (
            "window",
            match config.windows.iter().flatten().next() {
                Some(window) => format!("{window} tokens, on {windows} of {} layers", config.layers()),
                None => "none".to_owned(),
            },
        ),
        (
            "rope",
            format!(
                "theta {}{}",
                config.rope.theta,
                if config.rope.llama3.is_some() { ", llama3 scaling" } else { "" }
            ),
        ),
        ("parameters", readable(config.parameters() as f64)),
        ("memory", memory(config, computes)),
        ("vocabulary", config.vocab.to_string()),
        ("limit", format!("{} tokens", config.max_positions)),
        ("tensor-parallel", fits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("bos", opened.encoder.bos_rule().to_string()),
        ("chat template", template),
        ("numerics", numerics),
        ("fingerprint", fingerprint),
    ];
    for (name, value) in rows {
        writeln!(output, "{name:<16} {value}")?;
    }
    Ok(())
}

/// How much the weights take where they are held.
fn memory(config: &Config, computes: &[Compute]) -> String {
    let (ranks, Some(Compute { dtype, .. })) = (computes.len(), computes.first()) else { return String::new() };
    let bytes = readable((config.parameters_of_rank(ranks) * dtype.size()) as f64);
    match ranks {
        1 => format!("{bytes} bytes of weights in {dtype}"),
        _ => format!("{bytes} bytes of weights in {dtype} on each of {ranks} ranks"),
    }
}

/// The numerics and the fingerprint. A GPU that is not here hides these two and nothing else.
fn identity(opened: &Opened, computes: &[Compute]) -> Result<(String, String)> {
    match numerics(&opened.config, computes, computes.len()) {
        Ok(numerics) => {
            let fingerprint = opened.fingerprint(&numerics)?.to_string();
            Ok((numerics, fingerprint))
        }
        Err(error) if computes.iter().any(|compute| compute.device != Device::Cpu) => {
            let unknown = format!("not known here: {error}");
            Ok((unknown.clone(), unknown))
        }
        Err(error) => Err(error),
    }
}

fn bos(bos: Bos) -> String {
    match bos {
        Bos::Kept => "one was there".to_owned(),
        Bos::Added => "added".to_owned(),
        Bos::Deduplicated { removed } => format!("{removed} too many were taken away"),
        Bos::NotUsed => "the model takes none".to_owned(),
        Bos::AsGiven => "token ids are taken as they are".to_owned(),
    }
}

/// A number with as many of thousand, million, billion as it needs.
fn readable(number: f64) -> String {
    match number {
        billions if billions >= 1e9 => format!("{:.2} billion", billions / 1e9),
        millions if millions >= 1e6 => format!("{:.2} million", millions / 1e6),
        few => format!("{:.1} thousand", few / 1e3),
    }
}

/// Shows every line of a file; false if some conversation cannot be read.
fn show_all(output: &mut impl Write, opened: &Opened, options: &Options, path: &Path) -> Result<bool> {
    let file: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(stdin().lock()),
        false => Box::new(BufReader::new(std::fs::File::open(path).with_context(|| path.display().to_string())?)),
    };
    let mut sound = true;
    for (number, line) in file.split(b'\n').enumerate() {
        let place = format!("{}:{}", path.display(), number + 1);
        match serde_json::from_slice::<Map<String, Value>>(&line?) {
            Ok(object) => sound &= show(output, opened, options, (&place, &object))?,
            Err(error) => {
                sound = false;
                writeln!(output, "{place}: not a JSON object: {error}")?;
            }
        }
    }
    Ok(sound)
}

fn show(
    output: &mut impl Write,
    opened: &Opened,
    options: &Options,
    (place, object): (&str, &Map<String, Value>),
) -> Result<bool> {
    let input = match Input::from_json(object) {
        Ok(input) => input,
        Err(error) => {
            writeln!(output, "{place}: {error}")?;
            return Ok(false);
        }
    };
    let texts = opened.encoder.render(&input);
    let mut sound = true;
    for (number, item) in opened.encoder.encode(&input, options).items.into_iter().enumerate() {
        writeln!(output, "{place}, conversation {}", number + 1)?;
        if let Some(Ok(text)) = texts.get(number) {
            writeln!(output, "  text      {text:?}")?;
        }
        match item {
            Ok(encoded) => {
                let tokens: Vec<_> =
                    encoded.ids.iter().map(|&id| opened.encoder.token(id).unwrap_or_default()).collect();
                writeln!(output, "  bos       {}", bos(encoded.bos))?;
                writeln!(
                    output,
                    "  length    {} tokens{}",
                    encoded.ids.len(),
                    match encoded.truncated_from {
                        Some(tokens) => format!(", truncated from {tokens}"),
                        None => String::new(),
                    }
                )?;
                writeln!(output, "  input_ids {}", serde_json::to_string(&encoded.ids)?)?;
                writeln!(output, "  tokens    {}", serde_json::to_string(&tokens)?)?;
            }
            Err(error) => {
                sound = false;
                writeln!(output, "  error     {error}")?;
            }
        }
    }
    Ok(sound)
}
