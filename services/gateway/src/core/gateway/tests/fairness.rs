//! Who waits for how long when somebody else floods the gateway, and who gets how much.

use super::cluster::{Cluster, Speed};
use super::*;

const BUDGET: u64 = 8192;
const SECOND: u64 = 1_000_000;

fn cluster(ahead: bool, replicas: usize) -> Cluster {
    let settings = Settings {
        limits: Limits { tokens: 1 << 26, conversations: 1 << 20, longest: BUDGET },
        routing: Routing {
            stalled_after: Duration::from_secs(5),
            failures: 3,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5),
            prompts: 1 << 12,
        },
        attempts: 4,
        step_tokens: BUDGET,
    };
    // a full step takes 100 ms
    let speed = Speed { step: 18_080, token: 10, budget: BUDGET, ahead, delay: 300 };
    let mut cluster = Cluster::new(7, settings, speed, replicas);
    cluster.run_until(SECOND);
    cluster
}

fn step(speed: Speed) -> u64 {
    speed.step + speed.token * speed.budget
}

/// A conversation of 300 to 700 tokens.
fn conversation(cluster: &mut Cluster) -> Vec<u32> {
    let length = 300 + cluster.random.below(400);
    (0..length).map(|_| cluster.random.next() as u32 | 1024).collect()
}

/// A prompt with responses, 300 to 700 tokens each.
fn group(cluster: &mut Cluster, responses: usize) -> Vec<Vec<u32>> {
    let prompt = conversation(cluster);
    (0..responses).map(|_| prompt.iter().copied().chain(conversation(cluster)).collect()).collect()
}

/// How long a tenant's single conversations take, one every 100 ms; the slowest of a hundred.
fn p99(cluster: &mut Cluster, tenant: &str, end: u64) -> u64 {
    let mut asked = Vec::new();
    while cluster.now < end {
        let item = vec![conversation(cluster)];
        asked.push(cluster.ask((tenant, 1), 1 << 32, 60 * SECOND, &[item]));
        cluster.run_until(cluster.now + SECOND / 10);
    }
    cluster.run_until(end + 5 * SECOND);
    let answers = std::mem::take(&mut cluster.answers).into_iter().filter(|answer| asked.contains(&answer.request));
    let mut waits: Vec<_> = answers.inspect(|answer| assert!(answer.result.is_ok())).map(|it| it.waited).collect();
    assert_eq!(waits.len(), asked.len(), "not all of {tenant} was answered");
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

#[track_caller]
fn check_wait(ahead: bool, replicas: usize, flood: impl Fn(&mut Cluster)) {
    let mut cluster = cluster(ahead, replicas);
    flood(&mut cluster);
    let end = cluster.now + 20 * SECOND;
    let p99 = p99(&mut cluster, "b", end);
    assert!(cluster.gateway.stats().waiting_tokens > 0, "the flood ended too early");
    let steps = if ahead { 4 } else { 3 };
    let most = steps * step(cluster.speed);
    assert!(p99 <= most, "b's p99 is {p99} us, {steps} steps are {most} us");
}

#[test]
fn a_flood_of_conversations_lets_others_through_within_three_steps() {
    for (ahead, replicas) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        check_wait(ahead, replicas, |cluster| {
            for _ in 0..10_000 {
                let item = vec![conversation(cluster)];
                cluster.ask(("a", 1), 1, 600 * SECOND, &[item]);
            }
        });
    }
}

#[test]
fn a_flood_of_groups_lets_others_through_within_three_steps() {
    for (ahead, replicas) in [(false, 1), (true, 2)] {
        check_wait(ahead, replicas, |cluster| {
            for lane in 0..160 {
                let item = group(cluster, 64);
                cluster.ask(("a", 1), lane, 600 * SECOND, &[item]);
            }
        });
    }
}

#[test]
fn one_huge_request_lets_small_ones_of_its_tenant_through() {
    let mut cluster = cluster(false, 1);
    let items: Vec<_> = (0..100).map(|_| group(&mut cluster, 64)).collect();
    cluster.ask(("a", 1), 1, 600 * SECOND, &items);
    let end = cluster.now + 20 * SECOND;
    let p99 = p99(&mut cluster, "a", end);
    // a turn of the huge one may come before it, and the rest of a group before that
    assert!(p99 <= 5 * step(cluster.speed), "the small ones' p99 is {p99} us");
}

/// Floods from tenants of these weights; their tokens in relation to the first one's.
fn shares(tenants: &[(&str, u32)], ask: impl Fn(&mut Cluster, (&str, u32))) -> Vec<f64> {
    let mut cluster = cluster(false, 2);
    for tenant in tenants {
        ask(&mut cluster, *tenant);
    }
    // what fills the replicas at first is not a matter of weights
    cluster.run_until(cluster.now + SECOND);
    cluster.sent.clear();
    cluster.run_until(cluster.now + 20 * SECOND);
    let waiting: Vec<_> = cluster.gateway.waiting(at(0)).collect();
    assert_eq!(waiting.len(), tenants.len(), "a flood ended too early");
    let tokens = |(name, _): &(&str, u32)| cluster.sent[&TenantId::new(name)] as f64;
    tenants.iter().map(|tenant| tokens(tenant) / tokens(&tenants[0])).collect()
}

#[track_caller]
fn close_to(found: &[f64], expected: &[f64]) {
    let close = found.iter().zip(expected).all(|(found, expected)| (found / expected - 1.0).abs() < 0.05);
    assert!(close, "shares {found:?}, expected {expected:?}");
}

#[test]
fn floods_get_tokens_in_the_ratio_of_their_weights() {
    let singles = |cluster: &mut Cluster, tenant: (&str, u32)| {
        for lane in 0..8_000 {
            let item = vec![conversation(cluster)];
            cluster.ask(tenant, lane % 7, 600 * SECOND, &[item]);
        }
    };
    close_to(&shares(&[("a", 1), ("b", 1)], singles), &[1.0, 1.0]);
    close_to(&shares(&[("a", 1), ("b", 3)], singles), &[1.0, 3.0]);
    close_to(&shares(&[("a", 2), ("b", 1), ("c", 5)], singles), &[1.0, 0.5, 2.5]);
}

#[test]
fn the_ratio_holds_between_groups_and_single_conversations() {
    let mixed = |cluster: &mut Cluster, tenant: (&str, u32)| {
        for lane in 0..120 {
            let items: Vec<_> = match tenant.0 {
                "groups" => vec![group(cluster, 64)],
                _ => (0..70).map(|_| vec![conversation(cluster)]).collect(),
            };
            cluster.ask(tenant, lane, 600 * SECOND, &items);
        }
    };
    close_to(&shares(&[("groups", 1), ("singles", 1)], mixed), &[1.0, 1.0]);
    close_to(&shares(&[("groups", 1), ("singles", 2)], mixed), &[1.0, 2.0]);
}

#[test]
fn a_deadline_that_the_queue_does_not_allow_is_refused_at_once() {
    let mut cluster = cluster(false, 1);
    let flood = |cluster: &mut Cluster, number: usize| {
        for _ in 0..number {
            let item = vec![conversation(cluster)];
            cluster.ask(("a", 1), 1, 600 * SECOND, &[item]);
        }
    };
    flood(&mut cluster, 2_000);
    cluster.run_until(cluster.now + 2 * SECOND);
    cluster.answers.clear();
    let late = vec![conversation(&mut cluster)];
    let refused = cluster.ask(("a", 1), 1, SECOND, std::slice::from_ref(&late));
    let Some((request, Refusal::Deadline { left, wait, retry_after })) = cluster.refusals.pop() else {
        panic!("the deadline is taken for possible")
    };
    assert_eq!((request, left), (refused, Duration::from_secs(1)));
    assert_eq!(retry_after, Some(wait - left));
    // about 900,000 tokens at 80,000 a second
    assert!((8..14).contains(&wait.as_secs()), "the wait is taken for {wait:?}");
    // another tenant is not behind all that, nor another lane
    let others =
        [cluster.ask(("b", 1), 1, SECOND, std::slice::from_ref(&late)), cluster.ask(("a", 1), 2, SECOND, &[late])];
    cluster.run_until(cluster.now + 2 * SECOND);
    assert_eq!(cluster.refusals, []);
    for request in others {
        assert!(cluster.answers.iter().any(|answer| answer.request == request && answer.result.is_ok()));
    }
}
