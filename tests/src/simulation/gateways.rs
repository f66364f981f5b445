//! Gateway processes: a core each, the lines that it holds, and what it hears of the registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway::core::{
    Action, Answer, Event, Gateway as Core, Limits, ReplicaId, Reply, Routing, Settings, Version, elect,
};
use score::Partials;
use shard::leader;

use super::world::{Down, Message, Micros, Up, World, at};

pub(super) struct Gateway {
    pub(super) limits: Limits,
    /// None while it is dead.
    pub(super) core: Option<Core>,
    pub(super) life: u64,
    /// The newest epoch of each replica that it has heard of, and whether that goes on.
    known: BTreeMap<usize, (u64, bool)>,
    /// Lines that are not welcomed yet, and lines that its core knows of.
    dialing: BTreeMap<usize, usize>,
    lines: BTreeMap<usize, usize>,
    ready: BTreeMap<usize, (u64, Version)>,
    served: Option<Version>,
    /// Conversations that its core has and has not answered.
    pub(super) unanswered: u64,
}

pub(super) enum News {
    /// The registry says that an epoch has begun, or is over.
    Epoch { replica: usize, epoch: u64, open: bool },
    /// It is time to try again.
    Dial(usize),
    /// Nobody has answered.
    Unwelcome(usize),
}

/// How long a gateway waits for a welcome.
const WELCOME: Micros = 40_000;

// === impl Gateway ===

impl Gateway {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            core: None,
            life: 0,
            known: BTreeMap::new(),
            dialing: BTreeMap::new(),
            lines: BTreeMap::new(),
            ready: BTreeMap::new(),
            served: None,
            unanswered: 0,
        }
    }
}

// === impl World ===

impl World {
    pub(super) fn start_gateway(&mut self, number: usize) {
        let Gateway { limits, life, .. } = self.gateways[number];
        let routing = Routing {
            stalled_after: Duration::from_millis(150),
            failures: 3,
            pause: Duration::from_millis(30),
            longest_pause: Duration::from_millis(100),
            prompts: 4,
        };
        let settings = Settings { limits, routing, attempts: 4, step_tokens: self.shape.budget as u64 };
        self.gateways[number] = Gateway { core: Some(Core::new(settings)), life: life + 1, ..Gateway::new(limits) };
        for replica in 0..self.replicas.len() {
            if let Some(epoch) = self.replicas[replica].epoch.as_ref().map(|epoch| epoch.number) {
                self.announce(number, News::Epoch { replica, epoch, open: true });
            }
        }
    }

    pub(super) fn announce(&mut self, gateway: usize, news: News) {
        let (life, after) = (self.gateways[gateway].life, self.random.below(5_000));
        self.post(after, Message::News(gateway, life, news));
    }

    /// It is gone, and whoever waited for it asks another one.
    pub(super) fn kill_gateway(&mut self, number: usize) {
        if self.gateways[number].core.take().is_none() {
            return;
        }
        let notice = self.random.below(20_000);
        for line in 0..self.lines.len() {
            if self.lines[line].gateway == number && std::mem::take(&mut self.lines[line].gateway_end) {
                match self.random.chance(500) {
                    true => self.send_up(line, Up::Closed),
                    false => self.cut(line, notice),
                }
            }
        }
        self.ask_elsewhere(number);
        let back = self.random.between(20_000, 200_000);
        self.post(back, Message::StartGateway(number));
    }

    pub(super) fn hear(&mut self, number: usize, life: u64, news: News) {
        let gateway = &mut self.gateways[number];
        if gateway.life != life || gateway.core.is_none() {
            return;
        }
        match news {
            News::Epoch { replica, epoch, open } => {
                let known = gateway.known.entry(replica).or_insert((epoch, open));
                if known.0 < epoch {
                    *known = (epoch, open);
                } else if known.0 == epoch {
                    known.1 &= open;
                }
                self.dial(number, replica);
            }
            News::Dial(replica) => self.dial(number, replica),
            News::Unwelcome(line) => {
                let replica = self.lines[line].replica;
                if gateway.dialing.get(&replica) == Some(&line) {
                    gateway.dialing.remove(&replica);
                    self.hang_up(line);
                    self.redial(number, replica);
                }
            }
        }
    }

    /// Opens a line to the newest epoch of a replica, unless there is one.
    fn dial(&mut self, number: usize, replica: usize) {
        let gateway = &self.gateways[number];
        let Some(&(epoch, true)) = gateway.known.get(&replica) else { return };
        let (line, dialed) = (gateway.lines.get(&replica), gateway.dialing.get(&replica).copied());
        if line.into_iter().chain(&dialed).any(|line| self.lines[*line].epoch == epoch) {
            return;
        }
        if let Some(old) = dialed {
            self.hang_up(old);
        }
        let line = self.lay_line(number, replica, epoch);
        self.gateways[number].dialing.insert(replica, line);
        self.send_up(line, Up::Hello);
        self.post(WELCOME, Message::News(number, self.gateways[number].life, News::Unwelcome(line)));
    }

    fn redial(&mut self, number: usize, replica: usize) {
        let (life, after) = (self.gateways[number].life, self.random.between(2_000, 20_000));
        self.post(after, Message::News(number, life, News::Dial(replica)));
    }

    fn hang_up(&mut self, line: usize) {
        self.lines[line].gateway_end = false;
        self.send_up(line, Up::Closed);
    }

    /// Something comes from a replica; after its end, a line is heard no more.
    pub(super) fn hear_replica(&mut self, line: usize, down: Down) {
        let (number, replica, epoch) = (self.lines[line].gateway, self.lines[line].replica, self.lines[line].epoch);
        if !self.lines[line].gateway_end {
            return;
        }
        let gateway = &mut self.gateways[number];
        let id = ReplicaId(replica as u64);
        match down {
            Down::Welcome(announced) => {
                gateway.dialing.remove(&replica);
                gateway.lines.insert(replica, line);
                gateway.ready.insert(replica, (epoch, announced.version.clone()));
                self.tell(number, Event::Joined(announced));
                self.elect(number);
            }
            Down::Credits(tokens) => self.tell(number, Event::Granted { replica: id, epoch, tokens }),
            Down::Answers(answers) => {
                if gateway.lines.get(&replica) != Some(&line) {
                    self.books.saw("late answers");
                }
                let answers = answers_of(&answers);
                self.tell(number, Event::Answered { replica: id, epoch, answers });
            }
            Down::Rejections(rejections) => {
                self.books.saw("declined");
                let answers = rejections.into_iter().map(rejection).collect();
                self.tell(number, Event::Answered { replica: id, epoch, answers });
            }
            Down::Draining => {
                gateway.ready.retain(|it, (current, _)| *it != replica || *current != epoch);
                self.tell(number, Event::Draining { replica: id, epoch });
                self.elect(number);
            }
            Down::Closed => {
                self.lines[line].gateway_end = false;
                gateway.dialing.retain(|_, it| *it != line);
                gateway.lines.retain(|_, it| *it != line);
                gateway.ready.retain(|it, (current, _)| *it != replica || *current != epoch);
                self.tell(number, Event::Left { replica: id, epoch });
                self.elect(number);
                self.redial(number, replica);
            }
        }
    }

    fn elect(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let elected = elect(gateway.served.as_ref(), gateway.ready.values().map(|(_, version)| version));
        if elected != gateway.served {
            gateway.served.clone_from(&elected);
            self.tell(number, Event::Serve(elected.into_iter().collect()));
        }
    }

    pub(super) fn tell(&mut self, number: usize, event: Event) {
        let Some(core) = &mut self.gateways[number].core else { return };
        for action in core.handle(at(self.now), event) {
            self.act(number, action);
        }
        let gateway = &self.gateways[number];
        let stats = gateway.core.as_ref().unwrap().stats();
        assert_eq!(stats.conversations, gateway.unanswered);
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Refuse { request, refusal } => self.refused(request, refusal),
            Action::Send { replica, epoch, dispatch } => {
                let line = self.gateways[number].lines[&(replica.0 as usize)];
                assert_eq!(self.lines[line].epoch, epoch, "what is meant for one epoch goes to another");
                self.note_sent(&dispatch, (replica, epoch));
                let patience = dispatch.deadline.since(at(self.now)).as_micros() as Micros;
                assert!(patience > 0, "sent what nobody waits for");
                assert_eq!(dispatch.tokens, dispatch.piece.tokens());
                self.send_up(line, Up::Piece(dispatch.piece, patience));
            }
            // the line may have ended in this moment, or a newer one have taken its place
            Action::Withdraw { replica, epoch, tag } => {
                let line = self.gateways[number].lines.get(&(replica.0 as usize)).copied();
                if let Some(line) = line.filter(|line| self.lines[*line].epoch == epoch) {
                    self.send_up(line, Up::Withdraw(tag));
                }
            }
            Action::Disconnect { replica, epoch } => {
                assert!(self.troubled, "a replica that does what it should has stalled");
                self.books.saw("stalled");
                let replica = replica.0 as usize;
                let line = self.gateways[number].lines.get(&replica).copied();
                if let Some(line) = line.filter(|line| self.lines[*line].epoch == epoch) {
                    self.gateways[number].lines.remove(&replica);
                    self.gateways[number].ready.remove(&replica);
                    self.hang_up(line);
                    self.redial(number, replica);
                }
            }
            Action::Answer(outcome) => self.answered(number, outcome),
        }
    }
}

fn answers_of(answers: &leader::Answers) -> Vec<Answer> {
    let ranks: Arc<[_]> = answers.ranks.iter().map(|(step, _)| *step).collect();
    let answer = |computed: &leader::Computed| {
        let mut partials = Partials::empty(1);
        answers.contributions(computed).for_each(|(_, partial)| partials.push(partial));
        let reply = Reply::Computed { ranks: Arc::clone(&ranks), partials, tokens: computed.tokens as u32 };
        Answer { tag: computed.tag, conversation: computed.conversation as usize, reply }
    };
    answers.computed.iter().map(answer).collect()
}

fn rejection(rejection: leader::Rejection) -> Answer {
    let reply = rejection.problem.map_or(Reply::Declined, Reply::Failed);
    Answer { tag: rejection.tag, conversation: rejection.conversation as usize, reply }
}
