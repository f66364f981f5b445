//! The end of a process: it begins once, everybody may wait for it, and a signal may begin it.

use std::future::Future;
use std::io;
use std::process;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal as Kill, getpid, kill_process};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether the process is ending. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

/// The status of a process that two signals have ended.
const INTERRUPTED: i32 = 130;

/// How long the end of a process that two signals have ended may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A runtime for signals alone, and the signals.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

// === impl Shutdown ===

impl Shutdown {
    /// A shutdown that only [`begin`](Self::begin) begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins with the first SIGTERM or SIGINT. A second one ends the process at once with status 130.
    ///
    /// The signals are caught when this returns, also where the process is the first of its container, and on a thread
    /// of their own: the second one ends the process even if nothing else in it moves.
    ///
    /// # Errors
    /// If the system gives no thread or no signals.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let (sender, caught) = mpsc::channel();
        let begins = shutdown.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || match Signals::catch() {
            Ok(signals) => {
                // Whoever waits for it is alive: it is `on_signals` itself.
                let _ = sender.send(Ok(()));
                signals.obey(&begins);
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        })?;
        caught.recv().map_err(io::Error::other)??;
        Ok(shutdown)
    }

    /// Begins the shutdown; nothing happens if it has begun.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// What is cancelled when it begins, for those who know nothing of processes.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until it has begun. The future borrows nothing, so that it can be handed to a server.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }
}

// === impl Signals ===

impl Signals {
    fn catch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { runtime, terminate, interrupt })
    }

    fn obey(mut self, shutdown: &Shutdown) {
        let name = self.next();
        tracing::info!(signal = name, "shutting down; a second signal ends the process at once");
        shutdown.begin();
        let name = self.next();
        tracing::warn!(signal = name, "ending at once");
        // what the libraries of a process do at its exit may never come to an end
        let kill = thread::Builder::new().spawn(|| {
            thread::sleep(AT_ONCE);
            let _ = kill_process(getpid(), Kill::KILL);
        });
        // the log has a moment
        if kill.is_ok() {
            thread::sleep(AT_ONCE / 20);
        }
        process::exit(INTERRUPTED);
    }

    fn next(&mut self) -> &'static str {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        })
    }
}

#[cfg(test)]
mod tests;
