//! Turns between tenants and within one, and that nothing is lost on the way.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn share(tenant: &str, weight: u32, lane: u64) -> Share {
    Share { tenant: TenantId::new(tenant), weight: weight.try_into().unwrap(), lane: LaneId(lane) }
}

fn pop_all(queue: &mut FairQueue, turn: u64) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop(turn)).map(|piece| piece.0).collect()
}

fn check_empty(queue: &FairQueue) {
    assert_eq!((queue.len(), queue.tokens(), queue.first()), (0, 0, None));
    assert!(queue.tenants.is_empty() && queue.ahead.is_empty() && queue.waiting.is_empty(), "tenants are kept");
}

#[test]
fn a_newcomer_comes_next_and_an_idle_tenant_saves_nothing_up() {
    let mut queue = FairQueue::default();
    for piece in 0..10 {
        queue.push(PieceId(piece), &share("flood", 1, 0), 100);
    }
    for expected in 0..5 {
        assert_eq!(queue.pop(1000), Some(PieceId(expected)));
    }
    // not five at once for the five that it did not ask for
    for piece in 10..15 {
        queue.push(PieceId(piece), &share("late", 1, 0), 100);
    }
    assert_eq!(pop_all(&mut queue, 1000), [10, 5, 11, 6, 12, 7, 13, 8, 14, 9]);
    check_empty(&queue);
}

#[test]
fn who_had_nothing_waiting_while_others_had_is_behind_until_it_is_served() {
    let mut queue = FairQueue::default();
    queue.push(PieceId(0), &share("flood", 1, 0), 100);
    queue.push(PieceId(1), &share("flood", 1, 0), 100);
    assert!(!queue.is_behind(), "there is nobody else");
    queue.pop(1000);
    queue.push(PieceId(2), &share("rare", 1, 0), 10);
    queue.push(PieceId(3), &share("rare", 1, 0), 10);
    assert_eq!((queue.first(), queue.is_behind()), (Some(PieceId(2)), true));
    queue.pop(1000);
    assert_eq!((queue.first(), queue.is_behind()), (Some(PieceId(3)), false));
}

#[test]
fn a_tenant_that_leaves_for_a_moment_is_still_charged() {
    let mut queue = FairQueue::default();
    for piece in 0..4 {
        queue.push(PieceId(piece), &share("steady", 1, 0), 100);
    }
    queue.push(PieceId(10), &share("hopper", 1, 0), 300);
    let mut order = vec![queue.pop(1000).unwrap().0];
    for piece in 11..13 {
        order.push(queue.pop(1000).unwrap().0);
        queue.push(PieceId(piece), &share("hopper", 1, 0), 300);
    }
    order.extend(pop_all(&mut queue, 1000));
    assert_eq!(order, [10, 0, 1, 2, 11, 3, 12]);
    check_empty(&queue);
}

#[test]
fn lanes_take_turns() {
    let mut queue = FairQueue::default();
    for piece in 0..6 {
        queue.push(PieceId(piece), &share("a", 1, 99), 50);
    }
    for piece in 6..9 {
        queue.push(PieceId(piece), &share("a", 1, piece), 1);
    }
    // two pieces are a turn
    assert_eq!(pop_all(&mut queue, 100), [0, 1, 6, 7, 8, 2, 3, 4, 5]);
    check_empty(&queue);
}

#[test]
fn what_comes_back_goes_first_and_costs_nothing() {
    let mut queue = FairQueue::default();
    for piece in 0..4 {
        queue.push(PieceId(piece), &share("a", 1, 0), 100);
        queue.push(PieceId(piece + 10), &share("b", 1, 0), 100);
    }
    assert_eq!([queue.pop(1000), queue.pop(1000)], [Some(PieceId(0)), Some(PieceId(10))]);
    queue.put_back(PieceId(0), &share("a", 1, 0), 100);
    assert_eq!(queue.tokens(), 700);
    assert_eq!(pop_all(&mut queue, 1000), [0, 1, 11, 2, 12, 3, 13]);
    check_empty(&queue);
}

#[test]
fn what_is_taken_out_is_gone() {
    let mut queue = FairQueue::default();
    let a = share("a", 1, 0);
    for piece in 0..3 {
        queue.push(PieceId(piece), &a, 100);
    }
    queue.put_back(PieceId(9), &a, 50);
    queue.remove(PieceId(9), &a);
    queue.remove(PieceId(1), &a);
    queue.remove(PieceId(1), &a);
    queue.remove(PieceId(1), &share("a", 1, 1));
    queue.remove(PieceId(1), &share("nobody", 1, 1));
    assert_eq!((queue.len(), queue.tokens()), (2, 200));
    assert_eq!(pop_all(&mut queue, 1000), [0, 2]);
    check_empty(&queue);
}

#[test]
fn the_tokens_ahead_are_those_that_go_first() {
    let mut queue = FairQueue::default();
    for piece in 0..100 {
        queue.push(PieceId(piece), &share("flood", 1, 0), 100);
    }
    queue.push(PieceId(100), &share("small", 1, 0), 30);
    assert_eq!(queue.ahead_of(&share("flood", 1, 0), 100, 500), 10_000 + 100 + 30);
    // one turn of the other lane, and all that is small
    assert_eq!(queue.ahead_of(&share("flood", 1, 1), 100, 500), 500 + 100 + 30);
    assert_eq!(queue.ahead_of(&share("new", 1, 0), 100, 500), 100 + 100 + 30);
    assert_eq!(queue.ahead_of(&share("new", 4, 0), 100, 500), 100 + 25 + 25);
}

#[derive(Debug, Clone)]
enum Operation {
    Push { tenant: u8, lane: u64, tokens: u64 },
    Pop,
    PutBack(prop::sample::Index),
    Remove(prop::sample::Index),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0u8..4, 0u64..3, 0u64..50).prop_map(|(tenant, lane, tokens)| Operation::Push { tenant, lane, tokens }),
        3 => Just(Operation::Pop),
        1 => any::<prop::sample::Index>().prop_map(Operation::PutBack),
        1 => any::<prop::sample::Index>().prop_map(Operation::Remove),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_each_piece_comes_out_once(operations in prop::collection::vec(operation(), 0..200)) {
        let mut queue = FairQueue::default();
        let mut known: Vec<(Share, u64)> = Vec::new();
        let (mut waiting, mut out) = (HashSet::new(), Vec::new());
        for operation in operations {
            match operation {
                Operation::Push { tenant, lane, tokens } => {
                    let piece = known.len() as u64;
                    known.push((share(&tenant.to_string(), 1 + u32::from(tenant), lane), tokens));
                    queue.push(PieceId(piece), &known.last().unwrap().0, tokens);
                    waiting.insert(piece);
                }
                Operation::Pop => {
                    let next = queue.first();
                    prop_assert_eq!(next.is_some(), !waiting.is_empty());
                    prop_assert_eq!(queue.pop(60), next);
                    if let Some(PieceId(piece)) = next {
                        prop_assert!(waiting.remove(&piece), "{piece} came out twice");
                        let (share, _) = &known[piece as usize];
                        let earlier = waiting.iter().find(|&&it| it < piece && known[it as usize].0 == *share);
                        prop_assert!(earlier.is_none(), "{piece} overtook {earlier:?}");
                        out.push(piece);
                    }
                }
                Operation::PutBack(index) if !out.is_empty() => {
                    let piece = out.swap_remove(index.index(out.len()));
                    let (share, tokens) = &known[piece as usize];
                    queue.put_back(PieceId(piece), share, *tokens);
                    waiting.insert(piece);
                }
                Operation::Remove(index) if !known.is_empty() => {
                    let piece = index.index(known.len());
                    queue.remove(PieceId(piece as u64), &known[piece].0);
                    waiting.remove(&(piece as u64));
                }
                Operation::PutBack(_) | Operation::Remove(_) => {}
            }
            prop_assert_eq!(queue.len(), waiting.len());
            prop_assert_eq!(queue.tokens(), waiting.iter().map(|&piece| known[piece as usize].1).sum::<u64>());
            let by_tenant: u64 = queue.by_tenant().map(|(_, backlog)| backlog.tokens).sum();
            prop_assert_eq!(by_tenant, queue.tokens());
        }
        prop_assert_eq!(pop_all(&mut queue, 60).len(), waiting.len());
        check_empty(&queue);
    }

    /// What start-time fair queueing promises of tenants that always have something waiting.
    #[test]
    fn tenants_are_served_by_weight_up_to_a_piece(
        weights in prop::collection::vec(1u32..10, 2..5),
        costs in prop::collection::vec(1u64..100, 300),
    ) {
        let mut queue = FairQueue::default();
        let mut owners = Vec::new();
        // two pieces of each always wait
        for number in 0..2 * weights.len() {
            let tenant = number % weights.len();
            let share = share(&tenant.to_string(), weights[tenant], 0);
            queue.push(PieceId(number as u64), &share, costs[0]);
            owners.push((tenant, share, costs[0]));
        }
        let mut served = vec![0.0; weights.len()];
        for cost in &costs {
            let piece = queue.pop(100).unwrap();
            let (tenant, share, tokens) = owners[piece.0 as usize].clone();
            served[tenant] += tokens as f64 / f64::from(weights[tenant]);
            queue.push(PieceId(owners.len() as u64), &share, *cost);
            owners.push((tenant, share, *cost));
            let least = served.iter().copied().fold(f64::MAX, f64::min);
            let most = served.iter().copied().fold(0.0, f64::max);
            prop_assert!(most - least <= 200.0, "a tenant is {} ahead", most - least);
        }
    }
}
