//! Trying on ends some time.

use super::*;

#[tokio::test(start_paused = true)]
async fn patience_ends_when_nothing_comes_of_it() {
    let mut patience = Patience::new(Duration::from_secs(10));
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(!patience.ends_within(Duration::from_secs(3)));
    assert!(patience.ends_within(Duration::from_secs(5)));
    patience.renew();
    assert!(!patience.ends_within(Duration::from_secs(5)));
}

#[test]
fn waits_grow_to_the_longest_and_go_on() {
    let waits: Vec<Duration> = backoff().take(20).collect();
    assert_eq!(waits.len(), 20);
    assert!(waits[0] >= FIRST && waits[0] <= 2 * FIRST, "{waits:?}");
    assert!(waits[10..].iter().all(|wait| (LONGEST..=2 * LONGEST).contains(wait)), "{waits:?}");
}
