//! The end of a process, begun by hand and by signals: those go to a process of their own, this test's binary once more.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Shutdown;

#[tokio::test]
async fn it_begins_once_for_everybody() {
    let shutdown = Shutdown::new();
    let clone = shutdown.clone();
    assert!(!clone.has_begun());
    let waits = tokio::spawn(clone.begun());
    shutdown.begin();
    shutdown.begin();
    waits.await.unwrap();
    assert!(clone.has_begun());
    shutdown.begun().await;
}

/// The program of the tests below: it waits for its shutdown and then never ends, with nothing of it moving.
#[test]
fn process() {
    if !std::env::args().any(|argument| argument == CHILD) {
        return;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let shutdown = Shutdown::on_signals().unwrap();
    println!("\nwaiting");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        shutdown.begun().await;
        println!("begun");
        loop {
            thread::park();
        }
    });
}

/// Given to the test above as a filter that no test matches, so that it knows itself.
const CHILD: &str = "as-the-process-of-a-test";

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

fn start() -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "shutdown::tests::process", CHILD, "--nocapture"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut process = Process { child, output };
    process.says("waiting");
    process
}

impl Process {
    fn says(&mut self, expected: &str) {
        let mut line = String::new();
        while line.trim() != expected {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before it said {expected:?}");
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its status, and what it logged.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

#[test]
fn the_second_signal_ends_a_process_that_hangs() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut process = start();
        process.signal(first);
        process.says("begun");
        thread::sleep(Duration::from_millis(50));
        assert!(process.child.try_wait().unwrap().is_none(), "one {first} has ended it");
        process.signal(second);
        let (status, log) = process.end();
        assert_eq!(status, Some(130), "{log}");
        assert!(
            log.contains(&format!("shutting down; a second signal ends the process at once signal=\"SIG{first}\"")),
            "{log}"
        );
        assert!(log.contains(&format!("ending at once signal=\"SIG{second}\"")), "{log}");
    }
}
