//! Whose text is tokenized when, and who is not waited for.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::core::{LaneId, TenantId};

const LONG: Duration = Duration::from_secs(60);

fn load(tenant: &str, bytes: usize) -> Load {
    let share = Share { tenant: TenantId::new(tenant), weight: NonZeroU32::MIN, lane: LaneId(0) };
    Load { share, bytes, memory: bytes }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Has a job of each begin in the order of the list, with one thread that is busy until all wait; says in which order they
/// were done.
async fn order(loads: Vec<(&'static str, usize)>) -> Vec<&'static str> {
    let tokenizers = Tokenizers::new(1).unwrap();
    let (gate, busy) = std::sync::mpsc::channel::<()>();
    let (done, count) = (Arc::<Mutex<Vec<&str>>>::default(), loads.len());
    // it does not look up
    let first = tokenizers.run(load("busy", 1), soon(), move |_| assert!(busy.recv().is_err()));
    let jobs = loads.into_iter().map(|(tenant, bytes)| {
        let done = Arc::clone(&done);
        tokenizers.run(load(tenant, bytes), soon(), move |_| done.lock().unwrap().push(tenant))
    });
    let mut first = std::pin::pin!(first);
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut all = futures_util::future::join_all(jobs);
    assert!(futures_util::poll!(&mut all).is_pending());
    drop(gate);
    assert_eq!(first.await, Ok(()));
    assert!(all.await.iter().all(Result::is_ok));
    assert_eq!(done.lock().unwrap().len(), count);
    let done = done.lock().unwrap();
    done.clone()
}

#[tokio::test]
async fn tenants_take_turns_by_bytes() {
    let order =
        order(vec![("a", 9000), ("a", 9000), ("a", 9000), ("b", 3000), ("b", 3000), ("b", 3000), ("b", 3000)]).await;
    assert_eq!(order, ["a", "b", "b", "b", "a", "b", "a"]);
}

#[tokio::test]
async fn a_small_job_is_done_within_a_long_one() {
    let tokenizers = Tokenizers::new(1).unwrap();
    let looks = Arc::new(AtomicUsize::new(0));
    let (seen, small) = (Arc::clone(&looks), Arc::clone(&looks));
    let large = tokenizers.run(load("large", 1 << 20), soon(), move |wanted| {
        while seen.load(Ordering::Relaxed) < 2 {
            assert!(wanted.is_wanted());
            thread::sleep(Duration::from_millis(1));
        }
    });
    let within = tokenizers.run(load("small", 100), soon(), move |wanted| {
        // within it, no other begins
        assert!(wanted.is_wanted());
        small.fetch_add(1, Ordering::Relaxed);
    });
    let panics = tokenizers.run(load("other", 100), soon(), |_| panic!("a test"));
    let third = Arc::clone(&looks);
    let last = tokenizers.run(load("small", 100), soon(), move |_| assert!(third.fetch_add(1, Ordering::Relaxed) < 2));
    let (large, within, panics, last) = tokio::join!(large, within, panics, last);
    assert_eq!((large, within, panics, last), (Ok(()), Ok(()), Err::<(), _>(Undone::Failed), Ok(())));
    assert_eq!(tokenizers.run(load("a", 1), soon(), |_| 7).await, Ok(7));
}

#[tokio::test]
async fn who_is_late_or_gone_stops_its_job_and_keeps_nobody_waiting() {
    let tokenizers = Tokenizers::new(1).unwrap();
    let stopped = Arc::new(AtomicUsize::new(0));
    let endless = |stopped: &Arc<AtomicUsize>| {
        let stopped = Arc::clone(stopped);
        move |wanted: &dyn Wanted| {
            while wanted.is_wanted() {
                thread::sleep(Duration::from_millis(1));
            }
            stopped.fetch_add(1, Ordering::Relaxed);
        }
    };
    let late = Instant::now() + Duration::from_millis(20);
    assert_eq!(tokenizers.run(load("a", 1 << 20), late, endless(&stopped)).await, Err(Undone::TooLate));
    // this one waits for its turn, which comes
    assert_eq!(tokenizers.run(load("a", 1 << 20), soon(), |_| 1).await, Ok(1));
    let gone = tokenizers.run(load("a", 1 << 20), soon(), endless(&stopped));
    assert!(tokio::time::timeout(Duration::from_millis(20), gone).await.is_err());
    assert_eq!(tokenizers.run(load("a", 1 << 20), soon(), |_| 2).await, Ok(2));
    assert_eq!(stopped.load(Ordering::Relaxed), 2);
    // what never began is forgotten, and what is larger than all the room does not begin
    let never = tokenizers.run(load("a", ROOM), Instant::now(), |_| 3);
    assert!(matches!(never.await, Err(Undone::TooLate) | Ok(3)));
    let large = Load { memory: ROOM + 1, ..load("a", 1) };
    assert_eq!(tokenizers.run(large, soon(), |_| ()).await, Err(Undone::TooLarge));
}
