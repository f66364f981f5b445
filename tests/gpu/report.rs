//! Findings, as lines of JSON on the standard output; run.py reads them as they come.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

pub(crate) fn line(finding: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, finding)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
