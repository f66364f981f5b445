//! The files of a run: opened before anything is computed, changed only when nothing can go wrong any more.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::args::Score;

/// Where lines come from, and where answers and stats go.
pub(crate) struct Files {
    pub(crate) reader: Box<dyn BufRead + Send>,
    /// The length of the input, if it is a regular file.
    pub(crate) bytes: Option<u64>,
    output: Option<File>,
    stats: Option<File>,
}

/// How lines are written.
pub(crate) type Output = BufWriter<Box<dyn Write>>;

// === impl Files ===

impl Files {
    /// Opens all of them, and refuses to write over the input or two things to one file.
    pub(crate) fn open(args: &Score) -> Result<Self> {
        let (input, bytes) = open_input(&args.input)?;
        let read = input.metadata()?;
        let output = match args.output == Path::new("-") {
            true => None,
            false => Some(open_output(&args.output)?),
        };
        let stats = args.stats.as_deref().map(open_stats).transpose()?;
        let written: Vec<(&str, Metadata)> = [("--output", &output), ("--stats", &stats)]
            .into_iter()
            .filter_map(|(flag, file)| Some((flag, file.as_ref()?.metadata())))
            .map(|(flag, metadata)| Ok((flag, metadata?)))
            .collect::<io::Result<_>>()?;
        for (flag, metadata) in &written {
            ensure!(!same_file(metadata, &read), "{flag} is the input file: it would be overwritten");
        }
        if let [(_, output), (_, stats)] = written.as_slice() {
            ensure!(!same_file(output, stats), "--output and --stats are the same file");
        }
        Ok(Self { reader: Box::new(BufReader::new(input)), bytes, output, stats })
    }

    /// Empties the files to be written; from here on what they held is gone.
    pub(crate) fn begin(self) -> Result<(Box<dyn BufRead + Send>, Output, Option<File>)> {
        for file in [&self.output, &self.stats].into_iter().flatten() {
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
        }
        let output: Box<dyn Write> = match self.output {
            Some(file) => Box::new(file),
            None => Box::new(io::stdout()),
        };
        Ok((self.reader, BufWriter::new(output), self.stats))
    }
}

/// Regular files only: two ends of a terminal or of /dev/null may well be the same.
fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn open_input(path: &Path) -> Result<(File, Option<u64>)> {
    if path == Path::new("-") {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            tracing::warn!("reading conversations from the terminal, one JSON object a line; --input names a file");
        }
        let file = File::from(stdin.as_fd().try_clone_to_owned().context("standard input")?);
        return Ok((file, None));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata()?;
    ensure!(!metadata.is_dir(), "{} is a folder, expected a JSON Lines file", path.display());
    Ok((file, metadata.is_file().then_some(metadata.len())))
}

fn open_output(path: &Path) -> Result<File> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    open.with_context(|| format!("cannot write {}", path.display()))
}

fn open_stats(path: &Path) -> Result<File> {
    if path == Path::new("-") {
        bail!("--stats takes a file, - is for --input and --output");
    }
    open_output(path)
}
