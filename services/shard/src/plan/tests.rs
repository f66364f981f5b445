//! Steps that are formed of what gateways send, chosen cases and any: nothing lost, the budget kept, nobody starved.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

mod credits;
mod watchdog;

/// Numbers that look random and follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit`, without `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
}

/// Tokens that share nothing with those of another number.
fn tokens(number: u64, len: usize) -> Vec<u32> {
    (0..len as u32).map(|position| ((number as u32) << 12) | position).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the planner held against: all that was pushed and has neither come out in a step nor been dropped.
struct Books {
    planner: Planner,
    settings: Settings,
    waiting: BTreeMap<GatewayId, VecDeque<Item>>,
    /// For each gateway its oldest sequence, and the steps that were formed since it is that.
    heads: BTreeMap<GatewayId, (u64, u64)>,
    /// Computed tokens, by who was the first in the step to need them.
    computed: BTreeMap<GatewayId, usize>,
    /// The most gateways that ever waited.
    crowd: u64,
    now: Duration,
    next: u64,
    step: u64,
}

impl Books {
    fn new(settings: Settings) -> Self {
        let planner = Planner::new(settings, 3, 7);
        let (waiting, heads, computed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { planner, settings, waiting, heads, computed, crowd: 0, now: seconds(100), next: 0, step: 0 }
    }

    /// Small steps, and chances to be overdue.
    fn small(budget: usize) -> Self {
        Self::new(Settings { look_ahead: 4, overtakes: 6, patience: 2, ..Settings::new(budget) })
    }

    fn push(&mut self, gateway: u64, tokens: Vec<u32>) -> ItemId {
        self.push_until(gateway, tokens, None)
    }

    fn push_until(&mut self, gateway: u64, tokens: Vec<u32>, deadline: Option<Duration>) -> ItemId {
        self.next += 1;
        let id = ItemId { gateway: GatewayId(gateway), number: self.next };
        let item = Item { id, tokens: tokens.into(), arrived: self.now, deadline, urgent: false };
        self.planner.push(item.clone()).unwrap();
        self.waiting.entry(id.gateway).or_default().push_back(item);
        self.check();
        id
    }

    fn cancel(&mut self, id: ItemId) {
        let expected = self.remove(id);
        assert_eq!(self.planner.cancel(id), expected);
        self.check();
    }

    fn disconnect(&mut self, gateway: u64) {
        let expected: Vec<Item> = self.waiting.remove(&GatewayId(gateway)).into_iter().flatten().collect();
        assert_eq!(self.planner.disconnect(GatewayId(gateway)), expected);
        self.check();
    }

    fn remove(&mut self, id: ItemId) -> Option<Item> {
        let queue = self.waiting.get_mut(&id.gateway)?;
        let place = queue.iter().position(|item| item.id == id)?;
        queue.remove(place)
    }

    /// Forms a step, and says what is in it.
    fn step(&mut self) -> Vec<ItemId> {
        self.note_heads();
        let Plan { step, expired } = self.planner.next_step(self.now);
        for item in expired {
            assert!(item.deadline.unwrap() <= self.now);
            assert_eq!(self.remove(item.id), Some(item));
        }
        let late = |item: &Item| item.deadline.is_some_and(|deadline| deadline <= self.now);
        assert!(!self.waiting.values().flatten().any(late), "what is late was not dropped");
        let Some(Step { stamp, batch, items }) = step else {
            assert!(self.waiting.values().all(VecDeque::is_empty), "something waits and no step was formed");
            return Vec::new();
        };
        self.step += 1;
        assert_eq!(stamp, Stamp { generation: 3, epoch: 7, step: self.step });
        let mut packer = Packer::default();
        for item in &items {
            assert_eq!(self.remove(item.id).as_ref(), Some(item), "computed twice, or never sent");
            *self.computed.entry(item.id.gateway).or_default() += packer.cost(&item.tokens);
            packer.push(Arc::clone(&item.tokens));
        }
        assert_eq!(packer.pack(), batch);
        assert!(!items.is_empty() && items.len() <= self.settings.budget);
        assert!(batch.tokens.len() <= self.settings.budget);
        for (_, steps) in self.heads.values_mut() {
            *steps += 1;
        }
        self.note_heads();
        self.check();
        items.into_iter().map(|item| item.id).collect()
    }

    /// Nobody is the oldest of its gateway for longer than it takes to become due and let those before it go.
    fn note_heads(&mut self) {
        self.waiting.retain(|_, queue| !queue.is_empty());
        self.crowd = self.crowd.max(self.waiting.len() as u64);
        self.heads.retain(|gateway, _| self.waiting.contains_key(gateway));
        for (gateway, queue) in &self.waiting {
            let head = self.heads.entry(*gateway).or_insert((queue[0].id.number, 0));
            if head.0 != queue[0].id.number {
                *head = (queue[0].id.number, 0);
            }
            let most = (self.settings.patience + 1) * self.crowd;
            assert!(head.1 <= most, "{gateway:?} waits for {} steps, {most} are allowed", head.1);
        }
    }

    fn check(&self) {
        assert_eq!(self.planner.len(), self.waiting.values().map(VecDeque::len).sum::<usize>());
        assert_eq!(self.planner.is_empty(), self.planner.len().eq(&0));
        for (gateway, queue) in &self.waiting {
            let mut packer = Packer::default();
            queue.iter().for_each(|item| packer.push(Arc::clone(&item.tokens)));
            assert_eq!(self.planner.tokens(*gateway), packer.tokens() as u64);
        }
    }
}

// === any order of events ===

#[derive(Debug, Clone)]
enum Event {
    Push { gateway: u64, prompt: u64, prefix: usize, tail: usize, patience: Option<u64> },
    Cancel { number: u64, gateway: u64 },
    Disconnect { gateway: u64 },
    Wait { seconds: u64 },
    Step,
}

fn event() -> impl Strategy<Value = Event> {
    let patience = prop::option::weighted(0.2, 0u64..8);
    let push = (0u64..4, 0u64..3, 0usize..40, 1usize..60, patience)
        .prop_map(|(gateway, prompt, prefix, tail, patience)| Event::Push { gateway, prompt, prefix, tail, patience });
    prop_oneof![
        12 => push,
        1 => (1u64..100, 0u64..4).prop_map(|(number, gateway)| Event::Cancel { number, gateway }),
        1 => (0u64..4).prop_map(|gateway| Event::Disconnect { gateway }),
        1 => (1u64..4).prop_map(|seconds| Event::Wait { seconds }),
        4 => Just(Event::Step),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_computed_twice_over_budget_or_starved(
        budget in 100usize..300, events in prop::collection::vec(event(), 1..200),
    ) {
        let mut books = Books::small(budget);
        for event in events {
            match event {
                Event::Push { gateway, prompt, prefix, tail, patience } => {
                    let rest = tokens(100 + books.next, tail);
                    let deadline = patience.map(|patience| books.now + seconds(patience));
                    books.push_until(gateway, [tokens(prompt, prefix), rest].concat(), deadline);
                }
                Event::Cancel { number, gateway } => books.cancel(ItemId { gateway: GatewayId(gateway), number }),
                Event::Disconnect { gateway } => books.disconnect(gateway),
                Event::Wait { seconds: wait } => books.now += seconds(wait),
                Event::Step => drop(books.step()),
            }
        }
        while !books.step().is_empty() {}
        prop_assert!(books.planner.is_empty());
    }

    #[test]
    fn a_step_leaves_no_room_for_what_it_might_have_taken(
        lengths in prop::collection::vec((0u64..3, 1usize..=100), 1..60),
    ) {
        let mut books = Books::small(100);
        for (number, (gateway, len)) in lengths.into_iter().enumerate() {
            books.push(gateway, tokens(number as u64, len));
        }
        loop {
            let before = books.waiting.clone();
            let ids = books.step();
            if ids.is_empty() {
                break;
            }
            let computed: usize = before.values().flatten().filter(|it| ids.contains(&it.id)).map(|it| it.tokens.len()).sum();
            for queue in books.waiting.values() {
                let smallest = queue.iter().take(books.settings.look_ahead).map(|item| item.tokens.len()).min();
                prop_assert!(smallest.is_none_or(|smallest| computed + smallest > 100));
            }
        }
    }
}

// === chosen cases ===

#[test]
fn nothing_makes_no_step_and_uses_no_number() {
    let mut books = Books::small(100);
    assert!(books.step().is_empty());
    let id = books.push(0, tokens(1, 10));
    assert_eq!(books.step(), [id]);
    assert_eq!(books.step, 1);
}

#[test]
fn what_no_step_can_hold_is_refused() {
    let mut planner = Planner::new(Settings::new(100), 1, 1);
    let id = ItemId { gateway: GatewayId(1), number: 5 };
    let item = |len| Item { id, tokens: tokens(1, len).into(), arrived: seconds(0), deadline: None, urgent: false };
    assert_eq!(planner.push(item(0)), Err(Refusal::Empty));
    assert_eq!(planner.push(item(101)), Err(Refusal::TooLong { tokens: 101, budget: 100 }));
    assert!(planner.is_empty());
    assert_eq!(planner.push(item(100)), Ok(()));
    assert_eq!(planner.push(item(100)), Err(Refusal::Duplicate));
    let other = Item { id: ItemId { gateway: GatewayId(2), ..id }, ..item(100) };
    assert_eq!(planner.push(other), Ok(()), "gateways number on their own");
    assert_eq!((planner.len(), planner.tokens(id.gateway)), (2, 100));
}

#[test]
fn a_long_one_neither_blocks_short_ones_nor_waits_for_them() {
    let mut books = Books::small(100);
    let [first, long, short, shorter] = [60, 90, 30, 10].map(|len| books.push(0, tokens(len as u64, len)));
    for number in 0..20 {
        books.push(0, tokens(200 + number, 10));
    }
    assert_eq!(books.step(), [first, short, shorter]);
    assert_eq!(books.step()[0], long);
}

#[test]
fn a_prefix_is_computed_once_whoever_sends_it() {
    let mut books = Books::small(200);
    let ids: Vec<_> =
        (0..4).map(|gateway| books.push(gateway, [tokens(1, 100), tokens(50 + gateway, 25)].concat())).collect();
    // 100 + 4 x 25
    assert_eq!(books.step(), ids);
    assert_eq!(books.computed.values().sum::<usize>(), 200);
}

#[test]
fn what_shares_a_prefix_with_the_step_goes_first_within_the_look_ahead() {
    let shares = |tail| [tokens(1, 50), tokens(tail, 10)].concat();
    let mut books = Books::small(100);
    let first = books.push(0, shares(2));
    books.push(0, tokens(3, 30));
    books.push(0, tokens(4, 30));
    let second = books.push(0, shares(5));
    let third = books.push(0, shares(6));
    assert_eq!(books.step(), [first, second, third]);
    let mut books = Books::small(100);
    let first = books.push(0, shares(2));
    let others = [3, 4, 5, 6, 7, 8].map(|number| books.push(0, tokens(number, 20)));
    books.push(0, shares(9));
    assert_eq!(books.step(), [first, others[0], others[1]], "the look-ahead is four");
}

/// Gateway 0 sends one sequence a step, so it is always the one that was served least, and opens every step; what
/// is long on gateway 1 never fits into the rest, short ones do. Says in which steps two long ones were computed.
fn squeezed_out(settings: Settings) -> Vec<u64> {
    let mut books = Books::new(settings);
    let long = [0, 1].map(|number| books.push(1, tokens(number, 100)));
    let mut steps = Vec::new();
    for step in 1..100 {
        books.push(0, tokens(1000 + step, 40));
        for number in 0..3 {
            books.push(1, tokens(2000 + 3 * step + number, 20));
        }
        if books.step().iter().any(|id| long.contains(id)) {
            steps.push(step);
        }
    }
    steps
}

#[test]
fn what_is_urgent_goes_before_what_else_waits() {
    let mut planner = Planner::new(Settings::new(100), 3, 7);
    let mut push = |number: u64, urgent| {
        let (id, tokens) = (ItemId { gateway: GatewayId(1), number }, tokens(number, 40).into());
        planner.push(Item { id, tokens, arrived: seconds(0), deadline: None, urgent }).unwrap();
    };
    (0..5).for_each(|number| push(number, false));
    push(5, true);
    let mut step =
        || planner.next_step(seconds(1)).step.unwrap().items.iter().map(|it| it.id.number).collect::<Vec<_>>();
    assert_eq!([step(), step(), step()], [[5, 0], [1, 2], [3, 4]]);
}

#[test]
fn what_is_passed_over_too_often_or_too_long_opens_a_step() {
    let settings = Settings { look_ahead: 8, overtakes: 1000, ..Settings::new(100) };
    assert_eq!(squeezed_out(settings), [9, 17], "4 steps for each of 2 gateways");
    assert_eq!(squeezed_out(Settings { overtakes: 6, ..settings }), [3, 7], "passed over up to 3 times a step");
}

#[test]
fn what_became_due_first_goes_first() {
    let mut books = Books::new(Settings { patience: 0, ..Settings::new(100) });
    for number in 0..4 {
        for gateway in 0..3 {
            books.push(gateway, tokens(3 * number + gateway, 100));
        }
    }
    let steps: Vec<u64> = (0..12).map(|_| books.step()[0].gateway.0).collect();
    assert_eq!(steps, [0, 1, 2].repeat(4));
}

#[test]
fn what_is_late_or_cancelled_is_not_computed() {
    let mut books = Books::small(100);
    let (now, later) = (books.now, books.now + seconds(5));
    let [_, cancelled, kept] = [Some(now), None, Some(later)].map(|at| {
        let next = books.next;
        books.push_until(0, tokens(next, 10), at)
    });
    books.cancel(cancelled);
    books.cancel(cancelled);
    assert_eq!(books.step(), [kept]);
    books.cancel(kept);
    books.push_until(0, tokens(9, 10), Some(later));
    books.now = later;
    assert!(books.step().is_empty());
}

#[test]
fn no_more_sequences_than_tokens_however_little_they_cost() {
    let mut books = Books::new(Settings::new(64));
    for _ in 0..100 {
        books.push(0, tokens(1, 20));
    }
    assert_eq!((books.step().len(), books.step().len()), (64, 36));
}

#[test]
fn what_costs_nothing_costs_a_turn() {
    let mut books = Books::new(Settings::new(64));
    for gateway in [0, 1].repeat(100) {
        books.push(gateway, tokens(1, 20));
    }
    let of_one = books.step().iter().filter(|id| id.gateway == GatewayId(1)).count();
    // gateway 0 has paid for the 20 tokens
    assert!((32..=42).contains(&of_one), "{of_one} of 64");
}

// === fairness ===

/// Two gateways that always have something, with sequences of these lengths: their parts of the computed tokens.
fn parts(seed: u64, lengths: [(u64, u64); 2], prompts: u64) -> [f64; 2] {
    let mut random = Random(seed);
    let mut books = Books::new(Settings::new(1024));
    for _ in 0..300 {
        for (gateway, (low, high)) in (0..).zip(lengths) {
            while books.planner.tokens(GatewayId(gateway)) < 2048 {
                let (len, number) = (random.between(low, high) as usize, 1000 + books.next);
                let prompt = if prompts > 0 { tokens(random.below(prompts), len / 2) } else { Vec::new() };
                books.push(gateway, [&prompt[..], &tokens(number, len - prompt.len())].concat());
            }
        }
        assert!(!books.step().is_empty());
    }
    let all: usize = books.computed.values().sum();
    [0, 1].map(|gateway| books.computed[&GatewayId(gateway)] as f64 / all as f64)
}

#[test]
fn two_flooding_gateways_get_the_same_number_of_tokens() {
    let sizes = [(10, 60), (100, 400), (350, 360), (500, 1000), (520, 530), (1024, 1024)];
    for (seed, lengths) in sizes.iter().flat_map(|a| sizes.map(|b| [*a, b])).enumerate() {
        for prompts in [0, 3] {
            let parts = parts(seed as u64, lengths, prompts);
            assert!((parts[0] / parts[1] - 1.0).abs() < 0.05, "{lengths:?}, {prompts} prompts: {parts:?}");
        }
    }
}

#[test]
fn who_comes_back_has_saved_up_nothing_and_waits_for_nobody() {
    let mut books = Books::new(Settings::new(100));
    for number in 0..500 {
        books.push(0, tokens(number, 10));
    }
    for _ in 0..50 {
        assert_eq!(books.step().len(), 10);
    }
    assert!(books.step().is_empty());
    for number in 0..400 {
        books.push(number % 2, tokens(2000 + number, 10));
    }
    let of_one = |ids: &[ItemId]| ids.iter().filter(|id| id.gateway == GatewayId(1)).count();
    let steps: Vec<usize> = (0..10).map(|_| of_one(&books.step())).collect();
    assert!(steps[0] >= 5, "{steps:?}");
    assert!(steps[2..].iter().all(|&of_one| of_one == 5), "{steps:?}");
}

#[test]
fn what_a_gateway_could_not_use_is_forgotten_after_some_steps() {
    // gateways 0 and 1 do not fit into one step, so 2 fills what both leave; then 0 and 1 send what fits
    let mut books = Books::new(Settings::new(100));
    let fill = |books: &mut Books, big: usize| {
        for gateway in 0..3 {
            while books.planner.tokens(GatewayId(gateway)) < 200 {
                let number = books.next;
                books.push(gateway, tokens(number, if gateway < 2 { big } else { 5 }));
            }
        }
        books.step().iter().filter(|id| id.gateway == GatewayId(2)).count()
    };
    for _ in 0..200 {
        assert!(fill(&mut books, 51) > 0);
    }
    let of_two: Vec<usize> = (0..20).map(|_| fill(&mut books, 5)).collect();
    let first = of_two.iter().position(|&count| count > 0).unwrap();
    assert!(first <= 10, "{of_two:?}");
}
