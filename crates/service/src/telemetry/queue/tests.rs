//! Lines come out whole and in order, and a reader that sleeps costs lines, not time.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::*;

/// Keeps what is written, and waits before each write while its gate is held.
#[derive(Clone, Default)]
struct Gated(Arc<(Mutex<()>, Mutex<Vec<u8>>)>);

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.1.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_come_out_in_order_and_those_that_nobody_reads_are_dropped_and_counted() {
    let out = Gated::default();
    let (mut queue, flush) = Queue::start(out.clone()).unwrap();
    let closed = out.0.0.lock().unwrap();
    let start = Instant::now();
    for number in 0..2 * LINES {
        queue.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for a reader");
    let dropped = queue.dropped.load(Ordering::Relaxed);
    assert!(dropped >= LINES as u64 / 2, "{dropped}");
    // what nobody reads does not hold up the end either
    drop(flush);
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(closed);
    while out.0.1.lock().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(100));
    queue.write_all(b"last\n").unwrap();
    drop(Flush(queue.lines.clone()));
    let text = String::from_utf8(out.0.1.lock().unwrap().clone()).unwrap();
    let told = text.lines().filter_map(|line| line.strip_suffix(" lines of the log were dropped: nobody read it"));
    assert_eq!(told.map(|lines| lines.parse::<u64>().unwrap()).sum::<u64>(), dropped);
    let numbers = text.lines().filter_map(|line| line.parse::<usize>().ok()).collect::<Vec<_>>();
    assert!(numbers.is_sorted() && numbers[..100] == (0..100).collect::<Vec<_>>()[..]);
    assert!(text.ends_with("last\n"));
}
