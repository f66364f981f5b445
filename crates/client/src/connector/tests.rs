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
