//! A cluster in simulated time: one gateway, replicas that compute steps, a network that delays and repeats, clients
//! that keep books. Every action is held against what must be true of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use score::{Partials, RankStep, Stamp, Tag, Tail};

use crate::core::{Dispatch, Item, LaneId, Outcome, Version};

pub(super) const RANKS: usize = 3;
/// A conversation with this token has no finite score.
pub(super) const POISON: u32 = 666;
/// How late a tick may be.
pub(super) const TICK: u64 = 5_000;

/// Numbers that look random and follow from a seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit`, without `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True so often of a thousand times.
    pub(super) fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.below(1000) < of_a_thousand
    }
}

/// Microseconds as a moment.
pub(super) fn at(micros: u64) -> Time {
    Time::new(Duration::from_micros(micros))
}

pub(super) fn version(generation: u64) -> Version {
    Version { generation, fingerprint: Arc::from(format!("fingerprint-{generation}")) }
}

/// The score of a conversation, and the logit of each rank.
fn logits(tokens: &[u32]) -> ([f32; RANKS], u64) {
    let hash = prompt_hash_of(tokens);
    let poisoned = tokens.contains(&POISON);
    let logit = |rank: usize| match poisoned {
        true => f32::NAN,
        false => ((hash >> (16 * rank)) & 0xffff) as f32 / 777.0 - 40.0,
    };
    (std::array::from_fn(logit), hash)
}

fn prompt_hash_of(tokens: &[u32]) -> u64 {
    tokens.iter().fold(7, |hash: u64, token| Random(hash ^ u64::from(*token)).next())
}

/// How wrong things go, in thousandths; all zero for a cluster without faults.
#[derive(Clone, Copy, Default)]
pub(super) struct Trouble {
    /// Answers that arrive twice, much later, or with another's.
    pub(super) network: u64,
    /// Answers that are wrong in some way.
    pub(super) wrong: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Speed {
    /// Microseconds of a step, and of each token in it.
    pub(super) step: u64,
    pub(super) token: u64,
    /// Tokens of a step.
    pub(super) budget: u64,
    /// Whether a step is planned while the one before it is computed.
    pub(super) ahead: bool,
    /// Microseconds on the network, at most.
    pub(super) delay: u64,
}

pub(super) enum Message {
    ToGateway(Event),
    ToReplica(usize, u64, Dispatch),
    Withdrawn(usize, u64, Tag),
    StepEnds(usize, u64),
    Kill { replica: usize, notice: Option<u64> },
    Hang(usize),
    Resume(usize),
    Drain(usize),
    Start(usize),
    Reconnect(usize),
}

/// One conversation at a replica.
#[derive(Clone)]
struct Work {
    tag: Tag,
    number: usize,
    tokens: Arc<[u32]>,
    tail: u64,
    prefix: u64,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Condition {
    Up,
    Draining,
    Hung,
    Down,
}

struct Replica {
    condition: Condition,
    generation: u64,
    epoch: u64,
    step: u64,
    queue: VecDeque<Work>,
    planned: Vec<Work>,
    running: Vec<Work>,
    /// Credits that are out: granted, less what came.
    out: i64,
    /// What is said in order arrives in order.
    last_word: u64,
}

/// The client's book of a request.
struct Asked {
    deadline: u64,
    sent: u64,
    conversations: Vec<Vec<Arc<[u32]>>>,
    answered: HashSet<(usize, usize)>,
    /// Neither refused nor cancelled nor answered whole.
    open: bool,
}

/// What the gateway knows of a replica, by the events it was told.
#[derive(Default)]
struct Mirror {
    session: u64,
    epoch: Option<u64>,
    highest: u64,
    balance: i64,
    last_word: u64,
}

/// What became of a conversation, and how long it took.
pub(super) struct Answered {
    pub(super) request: RequestId,
    pub(super) result: Result<Score, Failure>,
    pub(super) waited: u64,
}

pub(super) struct Cluster {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) gateway: Gateway,
    pub(super) trouble: Trouble,
    /// Whether a replica has ever said something wrong.
    wronged: bool,
    pub(super) speed: Speed,
    /// Answers since somebody last took them out.
    pub(super) answers: Vec<Answered>,
    pub(super) refusals: Vec<(RequestId, Refusal)>,
    /// Tokens sent, by tenant.
    pub(super) sent: HashMap<TenantId, u64>,
    pub(super) generation: u64,
    settings: Settings,
    messages: BinaryHeap<Reverse<(u64, u64)>>,
    contents: HashMap<u64, Message>,
    posted: u64,
    epochs: u64,
    replicas: Vec<Replica>,
    mirrors: Vec<Mirror>,
    asked: HashMap<RequestId, Asked>,
    unanswered: u64,
    tenants: HashMap<RequestId, TenantId>,
    /// Where each conversation is, as far as the gateway knows.
    places: HashMap<(RequestId, usize, usize), (Tag, usize, u64)>,
    /// The item of each piece.
    items: HashMap<PieceId, usize>,
    /// What the gateway was told has failed.
    failed: HashSet<(Tag, usize)>,
    next_request: u64,
}

// === impl Cluster ===

impl Cluster {
    pub(super) fn new(seed: u64, settings: Settings, speed: Speed, replicas: usize) -> Self {
        let mut cluster = Self {
            now: 0,
            random: Random(seed),
            gateway: Gateway::new(settings),
            trouble: Trouble::default(),
            wronged: false,
            speed,
            answers: Vec::new(),
            refusals: Vec::new(),
            sent: HashMap::new(),
            generation: 1,
            settings,
            messages: BinaryHeap::new(),
            contents: HashMap::new(),
            posted: 0,
            epochs: 0,
            replicas: Vec::new(),
            mirrors: Vec::new(),
            asked: HashMap::new(),
            unanswered: 0,
            tenants: HashMap::new(),
            places: HashMap::new(),
            items: HashMap::new(),
            failed: HashSet::new(),
            next_request: 0,
        };
        cluster.post(0, Message::ToGateway(Event::Serve(vec![version(1)])));
        for replica in 0..replicas {
            cluster.replicas.push(Replica::new());
            cluster.mirrors.push(Mirror::default());
            cluster.post(0, Message::Start(replica));
        }
        cluster
    }

    /// Lets something happen after so many microseconds.
    pub(super) fn post(&mut self, after: u64, message: Message) {
        self.posted += 1;
        self.messages.push(Reverse((self.now + after, self.posted)));
        self.contents.insert(self.posted, message);
    }

    /// A request that arrives at once, for so many microseconds.
    pub(super) fn ask(&mut self, tenant: (&str, u32), lane: u64, patience: u64, items: &[Vec<Vec<u32>>]) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let conversations: Vec<Vec<Arc<[u32]>>> =
            items.iter().map(|item| item.iter().map(|tokens| Arc::from(tokens.as_slice())).collect()).collect();
        let number = conversations.iter().map(Vec::len).sum::<usize>() as u64;
        let request = Request {
            id,
            tenant: TenantId::new(tenant.0),
            weight: tenant.1.try_into().unwrap(),
            lane: LaneId(lane),
            deadline: at(self.now + patience),
            items: items.iter().map(|item| Item::new(item, item[0].len() / 2)).collect(),
        };
        let answered = HashSet::new();
        let deadline = self.now + patience;
        self.tenants.insert(id, request.tenant.clone());
        self.asked.insert(id, Asked { deadline, sent: self.now, conversations, answered, open: true });
        self.unanswered += number;
        self.tell(Event::Admit(request));
        id
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        if self.asked.get(&id).is_some_and(|asked| asked.open) {
            self.close(id);
            self.tell(Event::Cancel(id));
        }
    }

    /// Requests that are open.
    pub(super) fn open(&self) -> usize {
        self.asked.values().filter(|asked| asked.open).count()
    }

    /// Lets time pass.
    pub(super) fn run_until(&mut self, end: u64) {
        loop {
            let message = self.messages.peek().map_or(end, |Reverse((time, _))| *time);
            let wake = self.gateway.wakes_at(at(self.now));
            let wake = wake.map_or(end, |wake| wake.since(at(0)).as_micros() as u64);
            // a tick comes when it is due, or somewhat later
            let wake = wake + Random(wake).below(TICK);
            let next = message.min(wake).min(end);
            self.now = next.max(self.now);
            if message <= next && message < end {
                let Reverse((_, number)) = self.messages.pop().unwrap();
                let message = self.contents.remove(&number).unwrap();
                self.deliver(message);
            } else if wake <= next && wake < end {
                self.tell(Event::Tick);
            } else {
                return;
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::ToGateway(event) => self.tell(event),
            Message::ToReplica(replica, epoch, dispatch) => self.receive(replica, epoch, dispatch),
            Message::Withdrawn(replica, epoch, tag) => {
                if self.replicas[replica].epoch == epoch {
                    self.replicas[replica].queue.retain(|work| work.tag != tag);
                    self.proceed(replica);
                }
            }
            Message::StepEnds(replica, epoch) => self.step_ends(replica, epoch),
            Message::Kill { replica, notice } => {
                let it = &mut self.replicas[replica];
                it.condition = Condition::Down;
                let epoch = it.epoch;
                if let Some(after) = notice {
                    self.post(after, Message::ToGateway(Event::Left { replica: id(replica), epoch }));
                }
            }
            Message::Hang(replica) => {
                if self.replicas[replica].condition == Condition::Up {
                    self.replicas[replica].condition = Condition::Hung;
                }
            }
            Message::Resume(replica) => {
                let it = &mut self.replicas[replica];
                if it.condition == Condition::Hung {
                    it.condition = Condition::Up;
                    let (epoch, running) = (it.epoch, !it.running.is_empty());
                    if running {
                        self.post(0, Message::StepEnds(replica, epoch));
                    }
                    self.proceed(replica);
                }
            }
            Message::Drain(replica) => {
                if self.replicas[replica].condition == Condition::Up {
                    self.replicas[replica].condition = Condition::Draining;
                    let epoch = self.replicas[replica].epoch;
                    self.say(replica, Event::Draining { replica: id(replica), epoch });
                    self.proceed(replica);
                }
            }
            Message::Start(replica) => {
                self.echo(replica);
                self.epochs += 1;
                let last_word = self.replicas[replica].last_word;
                let (condition, generation, epoch) = (Condition::Up, self.generation, self.epochs);
                self.replicas[replica] = Replica { condition, generation, epoch, last_word, ..Replica::new() };
                self.announce(replica);
            }
            Message::Reconnect(replica) => {
                let it = &mut self.replicas[replica];
                match it.condition {
                    Condition::Up => {
                        it.queue.clear();
                        it.out = 0;
                        self.announce(replica);
                    }
                    Condition::Hung => self.post(20_000, Message::Reconnect(replica)),
                    Condition::Draining | Condition::Down => {}
                }
            }
        }
    }

    // --- replicas ---

    fn announce(&mut self, replica: usize) {
        let it = &self.replicas[replica];
        let announcement = Announcement {
            replica: id(replica),
            epoch: it.epoch,
            version: version(it.generation),
            ranks: RANKS,
            outputs: 1,
            step_tokens: self.speed.budget,
        };
        self.say(replica, Event::Joined(announcement));
        self.proceed(replica);
    }

    /// Sometimes what a replica said in its last life is heard again, late.
    fn echo(&mut self, replica: usize) {
        let (epoch, generation) = (self.replicas[replica].epoch, self.replicas[replica].generation);
        if epoch == 0 || !self.random.chance(10 * self.trouble.network) {
            return;
        }
        let (replica, version, step_tokens) = (id(replica), version(generation), self.speed.budget);
        let joined = Announcement { replica, epoch, version, ranks: RANKS, outputs: 1, step_tokens };
        let granted = Event::Granted { replica, epoch, tokens: step_tokens as i64 };
        for event in [Event::Joined(joined), granted, Event::Left { replica, epoch }] {
            let late = self.random.below(50_000);
            self.post(late, Message::ToGateway(event));
        }
    }

    /// Says something that arrives in order.
    fn say(&mut self, replica: usize, event: Event) {
        let delay = self.random.below(self.speed.delay + 1);
        let arrives = (self.now + delay).max(self.replicas[replica].last_word);
        self.replicas[replica].last_word = arrives;
        self.post(arrives - self.now, Message::ToGateway(event));
    }

    fn receive(&mut self, replica: usize, epoch: u64, dispatch: Dispatch) {
        let it = &mut self.replicas[replica];
        if it.epoch != epoch || it.condition == Condition::Down {
            return;
        }
        it.out -= dispatch.tokens as i64;
        let declined = it.condition == Condition::Draining;
        let score::Piece { tag, prefix, tails, .. } = dispatch.piece;
        for Tail { conversation, ids: tail } in tails {
            let number = conversation as usize;
            let tokens: Arc<[u32]> = prefix.iter().chain(tail.iter()).copied().collect();
            let work = Work { tag, number, tokens, tail: tail.len() as u64, prefix: prefix.len() as u64 };
            match declined {
                true => self.reply(replica, epoch, &work, Reply::Declined),
                false => self.replicas[replica].queue.push_back(work),
            }
        }
        self.proceed(replica);
    }

    /// Starts a step if there is work, plans the next, and grants what there is room for.
    fn proceed(&mut self, replica: usize) {
        let speed = self.speed;
        let it = &mut self.replicas[replica];
        if !matches!(it.condition, Condition::Up | Condition::Draining) {
            return;
        }
        if it.running.is_empty() {
            let planned = std::mem::take(&mut it.planned);
            it.running = if planned.is_empty() { it.plan(speed.budget) } else { planned };
            if !it.running.is_empty() {
                it.step += 1;
                let epoch = it.epoch;
                let time = speed.step + speed.token * cost(&it.running);
                self.post(time, Message::StepEnds(replica, epoch));
            }
        }
        let it = &mut self.replicas[replica];
        if speed.ahead && it.planned.is_empty() {
            it.planned = it.plan(speed.budget);
        }
        let (epoch, room) = (it.epoch, speed.budget as i64 - it.out - cost(it.queue.make_contiguous()) as i64);
        if it.condition == Condition::Draining {
            if it.running.is_empty() {
                it.condition = Condition::Down;
                self.say(replica, Event::Left { replica: id(replica), epoch });
            }
        } else if room > 0 {
            it.out += room;
            self.say(replica, Event::Granted { replica: id(replica), epoch, tokens: room });
        }
    }

    fn step_ends(&mut self, replica: usize, epoch: u64) {
        let it = &mut self.replicas[replica];
        if it.epoch != epoch || matches!(it.condition, Condition::Down | Condition::Hung) {
            return;
        }
        let stamp = Stamp { generation: it.generation, epoch, step: it.step };
        let mut done = std::mem::take(&mut it.running);
        // the next step starts before the answers are out
        self.proceed(replica);
        while !done.is_empty() {
            let next = if self.trouble.network > 0 { self.random.below(done.len() as u64) as usize } else { 0 };
            let work = if self.trouble.network > 0 { done.swap_remove(next) } else { done.remove(0) };
            let reply = self.computed(stamp, &work.tokens);
            self.reply(replica, epoch, &work, reply);
        }
    }

    fn computed(&mut self, stamp: Stamp, tokens: &[u32]) -> Reply {
        let (logits, checksum) = logits(tokens);
        let mut ranks: Vec<_> = (0..RANKS).map(|rank| RankStep { rank, stamp }).collect();
        let (mut values, mut checksums) = (logits.to_vec(), vec![checksum; RANKS]);
        if self.random.chance(self.trouble.wrong) {
            self.wronged = true;
            let rank = self.random.below(RANKS as u64) as usize;
            match self.random.below(7) {
                0 => checksums[rank] ^= 1,
                1 => ranks[rank].stamp.step += 1,
                2 => ranks[rank].stamp.epoch -= 1,
                3 => ranks.iter_mut().for_each(|it| it.stamp.generation += 1),
                4 => drop(ranks.remove(rank)),
                5 => {
                    ranks.push(ranks[rank]);
                    values.push(values[rank]);
                    checksums.push(checksum);
                }
                _ => return Reply::Failed("out of memory".to_owned()),
            }
        }
        let count = ranks.len();
        values.truncate(count);
        checksums.truncate(count);
        let partials = Partials::new(1, values, checksums).unwrap();
        Reply::Computed { ranks: ranks.into(), partials, tokens: 1 }
    }

    fn reply(&mut self, replica: usize, epoch: u64, work: &Work, reply: Reply) {
        let (tag, conversation) = (work.tag, work.number);
        let answer = Answer { tag, conversation, reply };
        let event = |answers| Message::ToGateway(Event::Answered { replica: id(replica), epoch, answers });
        let mut times = 1 + u64::from(self.random.chance(self.trouble.network));
        while times > 0 {
            times -= 1;
            let late = self.random.chance(self.trouble.network / 4);
            let longest = if late { 400_000 } else { self.speed.delay + 1 };
            let delay = self.random.below(longest);
            self.post(delay, event(vec![answer.clone()]));
        }
    }

    // --- the gateway ---

    fn tell(&mut self, event: Event) {
        self.reflect(&event);
        let actions = self.gateway.handle(at(self.now), event);
        for action in actions {
            self.act(action);
        }
        self.check();
    }

    /// Notes what the gateway now has to know.
    fn reflect(&mut self, event: &Event) {
        match event {
            Event::Joined(announced) => {
                let mirror = &mut self.mirrors[announced.replica.0 as usize];
                if announced.epoch >= mirror.highest {
                    let (session, epoch) = (mirror.session + 1, announced.epoch);
                    let last_word = mirror.last_word;
                    *mirror = Mirror { session, epoch: Some(epoch), highest: epoch, balance: 0, last_word };
                }
            }
            Event::Left { replica, epoch } => self.ended(*replica, *epoch),
            Event::Granted { replica, epoch, tokens } => {
                let most = 2 * self.speed.budget as i64;
                let mirror = &mut self.mirrors[replica.0 as usize];
                if mirror.epoch == Some(*epoch) {
                    mirror.balance = (mirror.balance + *tokens).min(most);
                }
            }
            Event::Answered { answers, .. } => {
                for answer in answers {
                    self.failed.insert((answer.tag, answer.conversation));
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, replica: ReplicaId, epoch: u64) {
        let mirror = &mut self.mirrors[replica.0 as usize];
        if mirror.epoch == Some(epoch) {
            (mirror.epoch, mirror.balance) = (None, 0);
            mirror.session += 1;
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Refuse { request, refusal } => {
                let asked = &self.asked[&request];
                assert!(asked.open && asked.sent == self.now, "{request:?} is refused after it came in");
                self.close(request);
                self.refusals.push((request, refusal));
            }
            Action::Send { replica, epoch, dispatch } => self.sent(replica, epoch, dispatch),
            Action::Withdraw { replica, epoch, tag } => {
                let number = replica.0 as usize;
                self.write(number, Message::Withdrawn(number, epoch, tag));
            }
            Action::Disconnect { replica, epoch } => {
                self.ended(replica, epoch);
                self.post(10_000, Message::Reconnect(replica.0 as usize));
            }
            Action::Answer(outcome) => self.answer(outcome),
        }
    }

    /// Writes to a replica's stream, where everything arrives in order.
    fn write(&mut self, replica: usize, message: Message) {
        let delay = self.random.below(self.speed.delay + 1);
        let mirror = &mut self.mirrors[replica];
        mirror.last_word = mirror.last_word.max(self.now + delay);
        self.post(self.mirrors[replica].last_word - self.now, message);
    }

    fn sent(&mut self, replica: ReplicaId, epoch: u64, dispatch: Dispatch) {
        let number = replica.0 as usize;
        let mirror = &mut self.mirrors[number];
        assert_eq!(mirror.epoch, Some(epoch), "sent to a replica that is not there");
        let overdraft = mirror.balance + (self.speed.budget / 2) as i64 >= dispatch.tokens as i64;
        assert!(mirror.balance > 0 || dispatch.piece.urgent && overdraft, "sent without credit");
        mirror.balance -= dispatch.tokens as i64;
        let session = mirror.session;
        let asked = &self.asked[&dispatch.request];
        assert!(asked.open && asked.deadline > self.now, "sent what nobody waits for");
        assert!(dispatch.piece.tag.attempt <= self.settings.attempts);
        let tails: u64 = dispatch.piece.tails.iter().map(|tail| tail.ids.len() as u64).sum();
        assert_eq!(dispatch.tokens, dispatch.piece.prefix.len() as u64 + tails);
        let item = self.item(&dispatch);
        let asked = &self.asked[&dispatch.request];
        for conversation in dispatch.piece.tails.iter().map(|tail| tail.conversation as usize) {
            assert!(!asked.answered.contains(&(item, conversation)), "sent after it was answered");
            let place = (dispatch.piece.tag, number, session);
            let before = self.places.insert((dispatch.request, item, conversation), place);
            if let Some((tag, replica, session)) = before {
                let over = self.mirrors[replica].session != session || self.failed.contains(&(tag, conversation));
                assert!(over, "{tag:?} is sent again while it may still be answered");
            }
        }
        if dispatch.piece.tag.attempt == 1 {
            *self.sent.entry(self.tenants[&dispatch.request].clone()).or_default() += dispatch.tokens;
        }
        self.write(number, Message::ToReplica(number, epoch, dispatch));
    }

    /// The item that a piece belongs to, by the tokens of one of its conversations.
    fn item(&mut self, dispatch: &Dispatch) -> usize {
        let asked = &self.asked[&dispatch.request];
        *self.items.entry(dispatch.piece.tag.piece).or_insert_with(|| {
            let Tail { conversation: number, ids: tail } = &dispatch.piece.tails[0];
            let tokens: Vec<u32> = dispatch.piece.prefix.iter().chain(tail.iter()).copied().collect();
            let same = |item: &Vec<Arc<[u32]>>| item.get(*number as usize).is_some_and(|it| **it == *tokens);
            asked.conversations.iter().position(same).expect("what is sent was asked for")
        })
    }

    fn answer(&mut self, outcome: Outcome) {
        let Outcome { request, item, conversation, result, .. } = outcome;
        let asked = self.asked.get_mut(&request).unwrap();
        assert!(asked.open, "{request:?} is answered after its end");
        assert!(asked.answered.insert((item, conversation)), "{request:?} is answered twice");
        let tokens = &asked.conversations[item][conversation];
        let late = self.now.saturating_sub(asked.deadline);
        match &result {
            Ok(score) => {
                let (logits, _) = logits(tokens);
                let sum = logits.iter().fold(0.0, |sum: f32, logit| sum + logit);
                assert_eq!(score.outputs.score.to_bits(), sum.to_bits(), "a wrong score");
                assert!(late == 0, "a score after the deadline");
            }
            Err(Failure::DeadlineExceeded) => assert!(self.now >= asked.deadline && late <= TICK),
            Err(Failure::Disagreement(Disagreement::NotFinite)) => assert!(tokens.contains(&POISON)),
            Err(Failure::Disagreement(_) | Failure::Replica(_)) => assert!(self.wronged),
            Err(Failure::Unavailable) => {}
        }
        let waited = self.now - asked.sent;
        self.unanswered -= 1;
        if asked.answered.len() == asked.conversations.iter().map(Vec::len).sum::<usize>() {
            asked.open = false;
            asked.conversations = Vec::new();
        }
        self.answers.push(Answered { request, result, waited });
    }

    fn close(&mut self, request: RequestId) {
        let asked = self.asked.get_mut(&request).unwrap();
        let all: usize = asked.conversations.iter().map(Vec::len).sum();
        self.unanswered -= (all - asked.answered.len()) as u64;
        asked.open = false;
    }

    fn check(&self) {
        let stats = self.gateway.stats();
        assert_eq!(stats.conversations, self.unanswered);
        assert!(stats.tokens <= self.settings.limits.tokens);
        assert!(stats.conversations <= self.settings.limits.conversations);
        assert_eq!(stats.credits, self.mirrors.iter().map(|mirror| mirror.balance).sum::<i64>());
        assert!(stats.waiting_tokens + stats.sent_tokens >= stats.tokens);
        assert!(stats.conversations > 0 || (stats.tokens, stats.waiting_tokens, stats.sent_tokens) == (0, 0, 0));
    }
}

fn id(replica: usize) -> ReplicaId {
    ReplicaId(replica as u64)
}

/// The tokens of these, prefixes of a piece once.
fn cost(works: &[Work]) -> u64 {
    let mut last = None;
    let prefix = |work: &Work| if last.replace(work.tag) == Some(work.tag) { 0 } else { work.prefix };
    let prefixes: u64 = works.iter().map(prefix).sum();
    prefixes + works.iter().map(|work| work.tail).sum::<u64>()
}

// === impl Replica ===

impl Replica {
    fn new() -> Self {
        let condition = Condition::Down;
        let (queue, planned, running) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { condition, generation: 0, epoch: 0, step: 0, queue, planned, running, out: 0, last_word: 0 }
    }

    /// The next step: what came first goes first.
    fn plan(&mut self, budget: u64) -> Vec<Work> {
        let mut step: Vec<Work> = Vec::new();
        while let Some(next) = self.queue.pop_front() {
            step.push(next);
            if step.len() > 1 && (cost(&step) > budget || step.len() as u64 > budget) {
                self.queue.extend(step.pop());
                self.queue.rotate_right(1);
                break;
            }
        }
        step
    }
}
