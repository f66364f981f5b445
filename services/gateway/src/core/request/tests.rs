//! How items share what they share, and into which pieces they fall.

use proptest::prelude::*;

use super::*;

fn whole(item: &Item) -> Vec<Vec<u32>> {
    item.tails.iter().map(|tail| item.prefix.iter().chain(tail.iter()).copied().collect()).collect()
}

/// Up to 30 conversations with a common start of up to 40 tokens.
fn conversations() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let tail = prop::collection::vec(0u32..3, 0..30);
    (prop::collection::vec(0u32..3, 1..40), prop::collection::vec(tail, 1..30)).prop_map(|(prompt, tails)| {
        tails.into_iter().map(|tail| prompt.iter().copied().chain(tail).collect()).collect()
    })
}

#[test]
fn a_prompt_is_what_all_share_if_it_is_worth_it() {
    let long: Vec<u32> = (0..20).collect();
    let with = |end: u32| long.iter().copied().chain([end]).collect::<Vec<_>>();
    let group = Item::new(&[with(1), with(2), long.clone()], 0);
    assert_eq!((&*group.prefix, group.tails[0].len(), group.tails[2].len()), (&*long, 1, 0));
    let apart = Item::new(&[vec![1, 2, 3], vec![1, 2, 4]], 2);
    assert_eq!((apart.prefix.len(), apart.tails.len()), (0, 2));
    let single = Item::new(std::slice::from_ref(&long), 15);
    assert_eq!((single.prefix.len(), single.tails[0].len()), (15, 5));
    assert_eq!(Item::new(std::slice::from_ref(&long), 99).prefix.len(), 20);
    assert_eq!(Item::new::<Vec<u32>>(&[], 0).tails.len(), 0);
    assert_eq!(prompt_hash(&long[..15]), None);
    assert_ne!(prompt_hash(&long[..16]), prompt_hash(&long[..17]));
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let request = |items| Request {
        id: RequestId(0),
        tenant: TenantId::new("a"),
        weight: NonZeroU32::MIN,
        lane: LaneId(0),
        deadline: Time::default(),
        items,
    };
    let good = Item::new(&[vec![1; 10]], 0);
    assert_eq!(request(vec![good.clone()]).check(10), Ok(()));
    assert_eq!(request(vec![]).check(10), Err(Refusal::Empty { item: 0 }));
    let none = Item::new::<Vec<u32>>(&[], 0);
    assert_eq!(request(vec![good.clone(), none]).check(10), Err(Refusal::Empty { item: 1 }));
    let empty = Item::new(&[vec![1], vec![]], 0);
    assert_eq!(request(vec![good.clone(), empty]).check(10), Err(Refusal::Empty { item: 1 }));
    let long = Item::new(&[vec![1; 11]], 5);
    assert_eq!(request(vec![good, long]).check(10), Err(Refusal::TooLong { item: 1, tokens: 11, limit: 10 }));
}

proptest! {
    #[test]
    fn an_item_holds_its_conversations(conversations in conversations(), prompt in 0usize..50) {
        prop_assert_eq!(whole(&Item::new(&conversations, prompt)), conversations);
    }

    #[test]
    fn pieces_are_all_of_an_item_and_as_large_as_a_step(conversations in conversations(), budget in 1u64..200) {
        let item = Item::new(&conversations, 0);
        let cuts = item.cut(budget);
        let prefix = item.prefix.len() as u64;
        let room = |range: Range<usize>| item.tails[range].iter().map(|tail| (tail.len() as u64).max(1)).sum::<u64>();
        let mut next = 0;
        for (number, (range, tokens)) in cuts.iter().enumerate() {
            prop_assert_eq!(range.start, next);
            next = range.end;
            let tails: usize = item.tails[range.clone()].iter().map(|tail| tail.len()).sum();
            prop_assert_eq!(*tokens, prefix + tails as u64);
            prop_assert!(range.len() == 1 || prefix + room(range.clone()) <= budget);
            let more = cuts.get(number + 1).map(|(next, _)| range.start..next.start + 1);
            prop_assert!(more.is_none_or(|more| prefix + room(more) > budget), "a piece could have been larger");
        }
        prop_assert_eq!(next, conversations.len());
    }
}
