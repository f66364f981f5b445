//! Random operations on memory and on etcd side by side: the same outcomes, the same members, the same order.

use super::{Incarnation, Key, Rig, key, soon, texts};
use crate::{Claim, Error, Prefix, Registry};

/// A registry under random operations.
struct Side {
    rig: Rig,
    registry: Registry,
    claims: [Option<Claim>; 3],
    /// The last epoch that was opened.
    epoch: u64,
}

/// What is done, the same on both sides.
#[derive(Clone, Debug)]
enum Operation {
    Claim { who: usize, keys: Vec<Key> },
    Update { who: usize, value: Vec<u8> },
    Release { who: usize },
    Expire { who: usize },
    Open { who: usize, epoch: Key },
    Close { epoch: Key },
}

impl Side {
    async fn new(rig: Rig) -> Self {
        let registry = rig.registry().await;
        Self { rig, registry, claims: [None, None, None], epoch: 0 }
    }

    /// Does it, and says what came of it.
    async fn apply(&mut self, operation: &Operation) -> String {
        let outcome = match operation {
            Operation::Claim { who, keys } => {
                let incarnation = Incarnation::new(*who as u128);
                let claimed = self.registry.claim(keys, incarnation, b"new").await;
                // A claim that is replaced gives back a lease that no longer holds the keys that it shares.
                claimed.map(|claim| self.claims[*who].replace(claim)).map(drop)
            }
            Operation::Update { who, value } => match &self.claims[*who] {
                Some(claim) => claim.update(value).await,
                None => return "nobody".to_owned(),
            },
            Operation::Release { who } => match self.claims[*who].take() {
                Some(claim) => claim.release().await,
                None => return "nobody".to_owned(),
            },
            Operation::Expire { who } => {
                if let Some(claim) = &self.claims[*who]
                    && claim.update(b"held").await.is_ok()
                {
                    self.rig.expire(&claim.keys()[0]).await;
                }
                Ok(())
            }
            Operation::Open { who, epoch } => match &self.claims[*who] {
                Some(claim) => claim.open_epoch(epoch, b"open").await.map(|number| {
                    assert!(number > self.epoch);
                    self.epoch = number;
                }),
                None => return "nobody".to_owned(),
            },
            Operation::Close { epoch } => self.registry.close_epoch(epoch, self.epoch).await,
        };
        outcome.err().as_ref().map_or_else(|| "done".to_owned(), Error::to_string)
    }

    /// The members, with the order in which they were written.
    async fn members(&self) -> Vec<(String, String, Incarnation, usize)> {
        let members = self.registry.list(&Prefix::all()).await.unwrap();
        let rank = |revision| members.iter().filter(|member| member.revision < revision).count();
        let all = texts(&members).into_iter().zip(&members);
        all.map(|((key, value), member)| (key, value, member.holder, rank(member.revision))).collect()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end) as usize
    }

    fn operation(&mut self) -> Operation {
        let who = self.below(3);
        let epoch = key(["epoch/a", "epoch/b"][self.below(2)]);
        match self.below(12) {
            0..4 => {
                let (first, count) = (self.below(4), 1 + self.below(2));
                Operation::Claim {
                    who,
                    keys: (first..first + count).map(|rank| key(&format!("ranks/{rank}"))).collect(),
                }
            }
            4..7 => Operation::Update { who, value: vec![b'a' + self.below(26) as u8; 1 + self.below(4)] },
            7 => Operation::Release { who },
            8 => Operation::Expire { who },
            9..11 => Operation::Open { who, epoch },
            _ => Operation::Close { epoch },
        }
    }
}

#[tokio::test]
async fn memory_and_etcd_agree() {
    for seed in [1, 2, 3] {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let (mut memory, mut etcd) = (Side::new(Rig::memory()).await, Side::new(Rig::etcd().await).await);
        let mut before = Vec::new();
        for step in 0..150 {
            let operation = random.operation();
            if let Operation::Claim { who, .. } = operation {
                // Else a dropped claim would be given back at another moment on each side.
                for side in [&mut memory, &mut etcd] {
                    side.apply(&Operation::Release { who }).await;
                }
            }
            let outcomes = (memory.apply(&operation).await, soon(etcd.apply(&operation)).await);
            assert_eq!(outcomes.0, outcomes.1, "seed {seed}, step {step}, {operation:?} after {before:?}");
            assert_eq!(memory.members().await, etcd.members().await, "seed {seed}, step {step}, {operation:?}");
            before.push(operation);
        }
    }
}
