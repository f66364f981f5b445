//! `assay inspect`: what a model is, and what it would read, as lines for people or as JSON.

mod description;
mod reading;

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;

use self::description::Description;
use crate::args::Inspect;
use crate::opened::Opened;

/// Runs the command.
pub(crate) fn run(args: &Inspect) -> Result<ExitCode> {
    let opened = Opened::open(&args.model.choice())?;
    let options = opened.options(&args.limits, usize::MAX)?;
    let mut output = stdout().lock();
    let Some(path) = &args.input else {
        let computes = args.compute.computes(args.tensor_parallel, usize::MAX)?;
        opened.config.check_world_size(computes.len())?;
        computes.iter().try_for_each(|compute| compute.check(&opened.config))?;
        let description = Description::of(&opened, &computes)?;
        match args.json {
            true => writeln!(output, "{}", serde_json::to_string(&description)?)?,
            false => write!(output, "{description}")?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut sound = true;
    for read in reading::of(&opened, &options, path)? {
        let read = read?;
        sound &= read.is_sound();
        match args.json {
            true => writeln!(output, "{}", serde_json::to_string(&read)?)?,
            false => write!(output, "{read}")?,
        }
    }
    Ok(ExitCode::from(if sound { 0 } else { crate::SOME_FAILED }))
}
