//! A log that holds nobody up: lines wait in a bounded queue for a thread that writes them. When nobody reads what it writes,
//! lines are dropped and counted, and the next one that is written says how many.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Where lines go. Clones share it.
#[derive(Clone)]
pub(super) struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Has what waits written when it is dropped, for which it waits a moment at most.
pub(super) struct Flush(SyncSender<Message>);

enum Message {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(Sender<()>),
}

/// Lines that may wait.
const LINES: usize = 4096;
/// How long the end of a process waits for the last of them.
const MOMENT: Duration = Duration::from_millis(500);

// === impl Queue ===

impl Queue {
    /// Lines go to `out`, on a thread of their own.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let (lines, waiting) = sync_channel(LINES);
        let dropped = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(out, &waiting, &counted))?;
        Ok((Self { lines: lines.clone(), dropped }, Flush(lines)))
    }
}

fn write(mut out: impl Write, waiting: &Receiver<Message>, dropped: &AtomicU64) {
    let mut told = 0;
    for message in waiting {
        // there is nobody to tell what goes wrong with the log
        match message {
            Message::Line(line) => {
                let dropped = dropped.load(Ordering::Relaxed);
                if dropped > told {
                    let _ = writeln!(out, "{} lines of the log were dropped: nobody read it", dropped - told);
                    told = dropped;
                }
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
    }
}

impl Write for Queue {
    /// Takes a line as a whole, as the log's layer writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("assay_log_lines_dropped_total").increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Queue {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

// === impl Flush ===

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = channel();
        // a queue that is full is one that nobody reads
        if self.0.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(MOMENT);
        }
    }
}

#[cfg(test)]
mod tests;
