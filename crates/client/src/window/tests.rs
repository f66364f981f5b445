//! An item is sent until it has its answer, and has one answer.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ROOM: usize = 32 << 20;

fn item(bytes: usize) -> v1::Item {
    v1::Item { input: Some(v1::item::Input::Text("x".repeat(bytes))) }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn there_is_room_for_so_many_items_and_bytes() {
    let now = Instant::now();
    let mut window = Window::new(2, ROOM);
    window.admit(1, (), item(1), now);
    assert!(window.has_room());
    window.admit(2, (), item(1), now);
    assert!(!window.has_room());
    window.answered(1);
    assert!(window.has_room());
    window.admit(3, (), item(ROOM), now);
    window.answered(2);
    // an item alone may be larger than the room
    assert!(!window.has_room());
    window.answered(3);
    assert!(window.has_room() && window.is_empty());
    assert_eq!(window.bytes, 0);
}

#[test]
fn whatever_has_no_answer_is_sent_again_in_order() {
    let now = Instant::now();
    let mut window = Window::new(9, ROOM);
    for id in 1..=4 {
        window.admit(id, (), item(1), now);
    }
    let sent = |window: &mut Window<()>| window.send().map(|request| request.id);
    assert_eq!([sent(&mut window), sent(&mut window), sent(&mut window)], [Some(1), Some(2), Some(3)]);
    window.answered(2);
    assert_eq!(window.all_again(now + seconds(1)), 2);
    assert_eq!([(); 4].map(|()| sent(&mut window)), [Some(4), Some(1), Some(3), None]);
    assert!(window.answered(2).is_none());
    // an answer may come while the item waits to be sent again
    assert!(window.again(1, now + seconds(2)));
    assert_eq!(window.next_due(), Some(now + seconds(2)));
    assert!(window.answered(1).is_some());
    assert_eq!((window.next_due(), window.all_again(now)), (None, 2));
}

#[test]
fn an_item_that_nobody_can_compute_waits_longer_each_time_and_not_forever() {
    let mut now = Instant::now();
    let start = now;
    let mut window = Window::new(9, ROOM);
    window.admit(1, (), item(1), now);
    let mut waits = Vec::new();
    while let Some(at) = window.unavailable(1, now, seconds(10)) {
        waits.push((at - now).as_millis());
        now = at;
    }
    assert_eq!(waits[..5], [200, 400, 800, 1600, 3000]);
    assert!(now - start <= seconds(10) && now - start > seconds(5));
    assert!(window.unavailable(7, now, seconds(10)).is_none());
}

#[test]
fn the_largest_item_is_known() {
    let mut window = Window::new(9, ROOM);
    assert_eq!(window.largest(), None);
    for (id, bytes) in [(1, 5), (2, 50), (3, 7)] {
        window.admit(id, (), item(bytes), Instant::now());
    }
    assert_eq!(window.largest(), Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_item_is_lost_and_none_is_answered_twice(steps in prop::collection::vec((0u8..5, 0u64..12), 0..200)) {
        let start = Instant::now();
        let mut window = Window::new(usize::MAX, usize::MAX);
        // true while it is with a gateway
        let mut model: BTreeMap<u64, bool> = BTreeMap::new();
        let mut next = 0;
        for (time, (step, id)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(time as u64);
            match step {
                0 => {
                    window.admit(next, (), item(3), now);
                    model.insert(next, false);
                    next += 1;
                }
                1 => {
                    let sent = window.send();
                    prop_assert_eq!(sent.is_some(), model.values().any(|with| !with));
                    if let Some(request) = sent {
                        prop_assert_eq!(model.insert(request.id, true), Some(false));
                    }
                }
                2 => prop_assert_eq!(window.answered(id).is_some(), model.remove(&id).is_some()),
                3 => prop_assert_eq!(window.again(id, now), model.get_mut(&id).is_some_and(std::mem::take)),
                _ => {
                    prop_assert_eq!(window.all_again(now), model.values().filter(|with| **with).count() as u64);
                    model.values_mut().for_each(|with| *with = false);
                }
            }
            prop_assert_eq!(window.is_empty(), model.is_empty());
            prop_assert_eq!(window.bytes, model.len() * item(3).encoded_len());
        }
    }
}
