//! How room is shared, what a refusal says, and how speed is measured.

use super::*;

const LIMITS: Limits = Limits { tokens: 1000, conversations: 100, longest: 500 };

fn size(tokens: u64, conversations: u64) -> Size {
    Size { tokens, conversations }
}

/// Takes in as much as there is room for; says how much that is.
fn flood(admission: &mut Admission, tenant: &str, each: Size) -> (u64, Refusal) {
    let tenant = TenantId::new(tenant);
    for number in 0.. {
        match admission.check(&tenant, each, &DrainRate::default()) {
            Ok(()) => admission.hold(&tenant, each),
            Err(refusal) => return (number, refusal),
        }
    }
    unreachable!()
}

fn full(scope: Scope) -> Refusal {
    Refusal::Full { scope, retry_after: SOME_TIME }
}

#[test]
fn a_flood_leaves_room_for_the_next() {
    let mut admission = Admission::new(LIMITS);
    assert_eq!(flood(&mut admission, "a", size(10, 1)), (50, full(Scope::Tenant)));
    assert_eq!(flood(&mut admission, "b", size(10, 1)), (25, full(Scope::Tenant)));
    assert_eq!(flood(&mut admission, "c", size(10, 1)), (12, full(Scope::Tenant)));
    assert!(admission.held().tokens <= LIMITS.tokens);
    // a request too large for what is left for anybody
    let refusal = admission.check(&TenantId::new("d"), size(200, 1), &DrainRate::default());
    assert_eq!(refusal, Err(full(Scope::Queue)));
}

#[test]
fn tiny_conversations_are_bounded_by_their_number() {
    let mut admission = Admission::new(LIMITS);
    assert_eq!(flood(&mut admission, "a", size(0, 1)), (50, full(Scope::Tenant)));
    let too_large = Refusal::TooLarge { tokens: 51, conversations: 51 };
    let mut empty = Admission::new(LIMITS);
    assert_eq!(flood(&mut empty, "a", size(51, 51)), (0, too_large));
    assert_eq!(flood(&mut empty, "a", size(501, 1)).1, Refusal::TooLarge { tokens: 501, conversations: 1 });
}

#[test]
fn what_is_released_is_free_again() {
    let mut admission = Admission::new(LIMITS);
    let tenant = TenantId::new("a");
    assert_eq!(flood(&mut admission, "a", size(10, 2)).0, 25);
    for _ in 0..25 {
        admission.release(&tenant, size(10, 2));
    }
    assert_eq!((admission.held(), admission.tenants.len()), (Size::default(), 0));
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let mut rate = DrainRate::default();
    rate.advance(Time::new(Duration::from_millis(100)), true);
    rate.record(20);
    let mut admission = Admission::new(LIMITS);
    let tenant = TenantId::new("a");
    admission.hold(&tenant, size(500, 10));
    let Err(Refusal::Full { retry_after, .. }) = admission.check(&tenant, size(100, 1), &rate) else { panic!() };
    // 200 tokens too many at 200 a second
    assert!((0.9..1.1).contains(&retry_after.as_secs_f64()), "{retry_after:?}");
}

#[test]
fn speed_is_that_of_busy_time_and_follows_changes() {
    let mut rate = DrainRate::default();
    assert_eq!((rate.per_second(), rate.time_for(1.0)), (None, None));
    let mut now = Time::default();
    let mut run = |rate: &mut DrainRate, seconds: u64, tokens: u64, busy: bool| {
        for _ in 0..10 * seconds {
            now = now + Duration::from_millis(100);
            rate.advance(now, busy);
            rate.record(tokens / 10);
        }
    };
    run(&mut rate, 30, 1000, true);
    let close = |rate: &DrainRate, to: f64| (rate.per_second().unwrap() / to - 1.0).abs() < 0.05;
    assert!(close(&rate, 1000.0), "{rate:?}");
    run(&mut rate, 100, 0, false);
    assert!(close(&rate, 1000.0), "idle time counts: {rate:?}");
    run(&mut rate, 30, 4000, true);
    assert!(close(&rate, 4000.0), "{rate:?}");
    assert_eq!(rate.time_for(8000.0).unwrap().as_secs(), 1);
    // stands still for an hour
    run(&mut rate, 3600, 0, true);
    assert!(rate.time_for(1e18).is_none_or(|time| time > Duration::from_secs(3600)));
}

#[test]
fn refusals_are_sentences() {
    let refusal = Refusal::Full { scope: Scope::Tenant, retry_after: SOME_TIME };
    assert_eq!(refusal.to_string(), "the tenant's share of the queue is full");
    let refusal = Refusal::TooLong { item: 3, tokens: 9000, limit: 8192 };
    assert_eq!(refusal.to_string(), "a conversation of item 3 has 9000 tokens, at most 8192 can be computed");
}

#[test]
fn a_speed_is_believed_after_a_second_of_work() {
    let mut rate = DrainRate::default();
    rate.advance(Time::new(Duration::from_millis(500)), true);
    rate.record(1);
    assert!(rate.per_second().is_some() && !rate.is_settled());
    rate.advance(Time::new(Duration::from_secs(60)), false);
    assert!(!rate.is_settled(), "idle time says nothing");
    rate.advance(Time::new(Duration::from_secs(61)), true);
    assert!(rate.is_settled());
}
