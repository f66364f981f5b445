//! Who gets room, who waits, and for whom.

use futures_util::FutureExt as _;

use super::*;

const MOST: usize = 800;

fn owner(tenant: &str) -> Arc<Owner> {
    Owner::new(tenant, &Held::default())
}

fn now(ledger: &Ledger, owner: &Arc<Owner>, bytes: usize) -> Option<Permit> {
    ledger.take(owner, bytes).now_or_never().flatten()
}

#[test]
fn a_stream_and_a_connection_have_their_parts_and_always_one_message() {
    let (ledger, connection) = (Ledger::new(MOST), Held::default());
    let streams = [(); 3].map(|()| Owner::new("a", &connection));
    let first = now(&ledger, &streams[0], 90).unwrap();
    assert!(now(&ledger, &streams[0], 20).is_none(), "more than an eighth for a stream");
    assert!(!ledger.is_pressed());
    let second = now(&ledger, &streams[1], 90).unwrap();
    assert!(now(&ledger, &streams[2], 90).is_none(), "more than a quarter for a connection");
    drop((first, second));
    let large = now(&ledger, &streams[2], 300).unwrap();
    assert_eq!((large.bytes(), streams[2].held()), (300, 300));
    drop(large);
    // what could never come in takes all that one may have
    assert_eq!(now(&ledger, &owner("b"), 10 * MOST).unwrap().bytes(), ledger.largest());
    assert_eq!(ledger.lock().held, 0);
    assert!(ledger.lock().tenants.is_empty());
}

#[test]
fn a_tenant_holds_as_much_as_it_leaves_free_and_the_next_one_finds_room() {
    let ledger = Ledger::new(MOST);
    let flood = |tenant: &str| std::iter::from_fn(|| now(&ledger, &owner(tenant), 20)).collect::<Vec<_>>();
    let (first, second) = (flood("a"), flood("b"));
    assert_eq!((first.len() * 20, second.len() * 20), (MOST / 2, MOST / 4));
    assert!(now(&ledger, &owner("c"), 20).is_some());
    drop(first);
    assert_eq!(flood("b").len() * 20 + MOST / 4, MOST / 2);
}

#[test]
fn who_waits_is_served_in_order_and_holds_up_only_whom_it_must() {
    let ledger = Ledger::new(MOST);
    let held = [(); 4].map(|()| now(&ledger, &owner("a"), 90).unwrap());
    let mut large = ledger.take(&owner("a"), 90);
    assert!((&mut large).now_or_never().is_none() && ledger.is_pressed());
    // another of the same tenant would fit, and waits behind it; another tenant does not
    let mut small = ledger.take(&owner("a"), 1);
    assert!((&mut small).now_or_never().is_none());
    assert!(now(&ledger, &owner("b"), 50).is_some());
    // one that holds nothing and does not fit has the right of way
    let mut huge = ledger.take(&owner("c"), MOST / 2);
    assert!((&mut huge).now_or_never().is_none());
    assert!(now(&ledger, &owner("d"), 10).is_none());
    drop(huge);
    assert!(now(&ledger, &owner("d"), 10).is_some());
    drop(held);
    let (large, small) = (large.now_or_never().flatten().unwrap(), small.now_or_never().flatten().unwrap());
    assert_eq!((large.bytes(), small.bytes(), ledger.is_pressed()), (90, 1, false));
}

#[test]
fn what_is_held_can_grow_shrink_and_be_shared_out() {
    let (ledger, owner) = (Ledger::new(MOST), owner("a"));
    let mut permit = now(&ledger, &owner, 50).unwrap();
    assert!(permit.resize(80) && !permit.resize(200) && permit.resize(40));
    let part = permit.split(30);
    assert_eq!((permit.bytes(), part.bytes(), owner.held()), (10, 30, 40));
    let mut waits = ledger.take(&owner, 90);
    assert!((&mut waits).now_or_never().is_none());
    drop((part, permit));
    // a turn that is given up after it came gives its room back
    assert_eq!(owner.held(), 90);
    drop(waits);
    assert_eq!(ledger.lock().held, 0);
}
