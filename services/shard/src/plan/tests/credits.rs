//! What gateways may send, held against a second book: never more than there is room for, and all of it comes back.

use super::*;

/// Gateways as they see themselves, and what waits of each.
struct Ledger {
    budget: u64,
    credits: Credits,
    balances: BTreeMap<GatewayId, i64>,
    waiting: BTreeMap<GatewayId, u64>,
}

impl Ledger {
    fn new(budget: u64, gateways: u64) -> Self {
        let (credits, balances, waiting) = (Credits::new(budget), BTreeMap::new(), BTreeMap::new());
        let mut ledger = Self { budget, credits, balances, waiting };
        (0..gateways).for_each(|gateway| ledger.connect(gateway));
        ledger.grant();
        ledger
    }

    fn connect(&mut self, gateway: u64) {
        self.credits.connect(GatewayId(gateway));
        self.balances.entry(GatewayId(gateway)).or_default();
    }

    fn disconnect(&mut self, gateway: u64) {
        self.credits.disconnect(GatewayId(gateway));
        self.balances.remove(&GatewayId(gateway));
        self.waiting.remove(&GatewayId(gateway));
        self.check();
    }

    /// Sends up to so many tokens, in a piece that may overdraw the balance.
    fn send(&mut self, gateway: u64, tokens: u64) {
        let gateway = GatewayId(gateway);
        if let Some(balance) = self.balances.get_mut(&gateway).filter(|balance| **balance > 0) {
            *balance -= tokens as i64;
            *self.waiting.entry(gateway).or_default() += tokens;
            self.credits.spent(gateway, tokens);
            self.check();
        }
    }

    /// Computes up to so many tokens of each.
    fn compute(&mut self, tokens: u64) {
        self.waiting.values_mut().for_each(|waiting| *waiting = waiting.saturating_sub(tokens));
    }

    fn grant(&mut self) {
        let before = self.held();
        let waiting = self.waiting.clone();
        let changes = self.credits.grant(|gateway| waiting.get(&gateway).copied().unwrap_or_default());
        assert!(changes.iter().all(|change| change.tokens > 0));
        self.apply(&changes, before);
    }

    fn end_round(&mut self) -> Vec<Change> {
        let before = self.held();
        let waiting = self.waiting.clone();
        let changes = self.credits.end_round(|gateway| waiting.get(&gateway).copied().unwrap_or_default());
        self.apply(&changes, before);
        changes
    }

    fn apply(&mut self, changes: &[Change], before: i64) {
        for Change { gateway, tokens } in changes {
            let balance = self.balances.get_mut(gateway).unwrap();
            *balance += tokens;
        }
        assert!(self.held() <= before.max(self.credits.limit() as i64), "more was granted than there is room for");
        self.check();
    }

    /// What is granted or waits, overdrafts apart.
    fn held(&self) -> i64 {
        self.balances.values().sum::<i64>() + self.waiting.values().sum::<u64>() as i64
    }

    fn check(&self) {
        let mut granted = 0;
        for (gateway, balance) in &self.balances {
            assert_eq!(self.credits.balance(*gateway), Some(*balance));
            granted += (*balance).max(0) as u64;
        }
        assert_eq!(self.credits.granted(), granted);
        assert!(granted <= self.budget + self.budget / 4 + 5, "{granted} tokens are granted");
    }

    fn balance(&self, gateway: u64) -> i64 {
        self.balances[&GatewayId(gateway)]
    }
}

#[derive(Debug, Clone)]
enum Event {
    Connect(u64),
    Disconnect(u64),
    Send(u64, u64),
    SendAll(u64),
    Compute(u64),
    Grant,
    Round,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0u64..5).prop_map(Event::Connect),
        1 => (0u64..5).prop_map(Event::Disconnect),
        6 => (0u64..5, 1u64..2000).prop_map(|(gateway, tokens)| Event::Send(gateway, tokens)),
        6 => (0u64..5).prop_map(Event::SendAll),
        3 => (0u64..1500).prop_map(Event::Compute),
        3 => Just(Event::Grant),
        3 => Just(Event::Round),
    ]
}

proptest! {
    #[test]
    fn what_is_granted_is_used_or_comes_back(
        budget in 1u64..2000, overdraw: bool, events in prop::collection::vec(event(), 1..200),
    ) {
        let mut ledger = Ledger::new(budget, 3);
        for event in events {
            match event {
                Event::Connect(gateway) => ledger.connect(gateway),
                Event::Disconnect(gateway) => ledger.disconnect(gateway),
                Event::Send(gateway, tokens) if overdraw => ledger.send(gateway, tokens),
                Event::Send(gateway, _) | Event::SendAll(gateway) => {
                    let balance = ledger.balances.get(&GatewayId(gateway)).copied().unwrap_or_default();
                    ledger.send(gateway, balance.max(0) as u64);
                }
                Event::Compute(tokens) => ledger.compute(tokens),
                Event::Grant => ledger.grant(),
                Event::Round => drop(ledger.end_round()),
            }
            if !overdraw {
                let gateways = ledger.balances.len() as u64;
                prop_assert!(ledger.held() as u64 <= budget + budget / 4 + gateways, "above the limit");
                prop_assert!(ledger.balances.values().all(|balance| *balance >= 0), "below zero");
            }
        }
        // when there is nothing more to do all have their floor, which is little in all
        ledger.compute(u64::MAX);
        for _ in 0..4 {
            drop(ledger.end_round());
        }
        let floor = ledger.credits.floor() as i64;
        prop_assert!(ledger.balances.values().all(|balance| (1..=floor).contains(balance)), "{:?}", ledger.balances);
        prop_assert_eq!(ledger.end_round(), []);
    }

    #[test]
    fn those_who_have_run_dry_share_alike_and_leave_the_others_their_floor(
        budget in 100u64..10_000, gateways in 1u64..9, flooding in 1u64..9,
    ) {
        let flooding = flooding.min(gateways);
        let mut ledger = Ledger::new(budget, gateways);
        for _ in 0..4 {
            for gateway in 0..flooding {
                ledger.send(gateway, ledger.balance(gateway) as u64);
            }
            ledger.compute(u64::MAX);
            drop(ledger.end_round());
        }
        let floor = ledger.credits.floor() as i64;
        let balances: Vec<i64> = (0..gateways).map(|gateway| ledger.balance(gateway)).collect();
        let (floods, others) = balances.split_at(flooding as usize);
        prop_assert!(others.iter().all(|balance| *balance == floor));
        prop_assert!(floods.iter().all(|balance| *balance == floods[0]));
        prop_assert!(floods.iter().sum::<i64>() + flooding as i64 > budget as i64, "a step's worth for those who ask");
    }
}

#[test]
fn a_new_gateway_can_start_at_once_and_gets_all_when_it_shows_that_it_wants_it() {
    let mut ledger = Ledger::new(1000, 1);
    assert_eq!(ledger.balance(0), 250);
    ledger.send(0, 50);
    ledger.grant();
    assert_eq!(ledger.balance(0), 200, "what waits belongs to the holding");
    ledger.send(0, 160);
    ledger.grant();
    assert_eq!((ledger.balance(0), ledger.held()), (790, 1000), "40 are left, less than another piece like that");
}

#[test]
fn what_is_overdrawn_takes_nothing_from_others_and_is_forgotten_when_it_is_computed() {
    let mut ledger = Ledger::new(1000, 2);
    ledger.send(0, 1200);
    ledger.send(1, 125);
    ledger.grant();
    assert_eq!((ledger.balance(0), ledger.balance(1)), (-638, 437), "each holds 562");
    ledger.compute(1200);
    drop(ledger.end_round());
    assert_eq!((ledger.balance(0), ledger.balance(1)), (562, 562));
}

#[test]
fn what_merged_prefixes_save_is_granted_again() {
    let mut credits = Credits::new(1000);
    credits.connect(GatewayId(0));
    drop(credits.grant(|_| 0));
    credits.spent(GatewayId(0), 250);
    let changes = credits.grant(|_| 50);
    assert_eq!(changes, [Change { gateway: GatewayId(0), tokens: 950 }]);
}

#[test]
fn a_gateway_that_stops_gives_way_within_two_rounds() {
    let mut ledger = Ledger::new(1000, 2);
    ledger.send(0, ledger.balance(0) as u64);
    ledger.grant();
    ledger.compute(1000);
    drop(ledger.end_round());
    assert_eq!((ledger.balance(0), ledger.balance(1)), (1000, 125));
    // of 1000 credits 875 were there for a whole round, the others were granted at the end of it
    let stopped = [250, 125].map(|expected| {
        ledger.send(1, 125);
        ledger.compute(1000);
        drop(ledger.end_round());
        (expected, ledger.balance(0))
    });
    assert!(stopped.iter().all(|(expected, balance)| expected == balance), "{stopped:?}");
    assert_eq!(ledger.balance(1), 1000);
}
