//! Gateway processes: a core each, the links that it dialed, and what it hears of the registry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gateway::core::{
    Action, Answer, Event, Gateway as Core, LinkId, News, NoLink, Rank, Record, Reply, RequestId, Routing, Settings,
    Terms,
};
use score::{Partial, Partials, PieceId, RankStep, Stamp, Versions};
use shard::leader;

use super::score::VOCAB;
use super::world::{Down, Message, Micros, Up, World, at};

#[derive(Default)]
pub(super) struct Gateway {
    /// None while it is dead.
    pub(super) core: Option<Core>,
    pub(super) life: u64,
    /// The links that its core knows of.
    links: HashMap<LinkId, usize>,
    /// What its core may send over these.
    credits: i64,
    /// The request and the item of each piece.
    pub(super) pieces: HashMap<PieceId, (RequestId, usize)>,
    /// Conversations that its core has and has not answered.
    pub(super) unanswered: u64,
    /// Whether it holds work that it has not sent.
    pub(super) holds: bool,
    /// Until when the registry has spoken, and when it wakes.
    news_until: Micros,
    wakes: Option<Micros>,
}

const MODEL: &str = "m";

/// What the registry says of the leader of a replica that serves, or does not.
pub(super) fn record(replica: usize, epoch: Option<u64>) -> Record {
    let (state, epoch) = epoch.map_or((Rank::Ready, 0), |epoch| (Rank::Serving, epoch));
    let (replica, model, address) = (name(replica), MODEL.to_owned(), replica.to_string());
    Record { replica, rank: 0, model, state, address, ranks: 1, epoch }
}

pub(super) fn name(replica: usize) -> String {
    format!("replica-{replica}")
}

// === impl World ===

impl World {
    pub(super) fn start_gateway(&mut self, number: usize) {
        let full = self.shape.full_step();
        let micros = Duration::from_micros;
        let routing = Routing {
            attempts: 4,
            stalled_after: micros(42 * full),
            failures: 3,
            pause: micros(8 * full),
            longest_pause: micros(28 * full),
            prompts: 4,
        };
        let budget = self.shape.budget as u64;
        let settings = Settings { limits: self.limits, routing, step_tokens: budget };
        let (gateway, model, vocab) = (format!("gateway-{number}").into(), MODEL.into(), VOCAB);
        let terms = Terms { gateway, model, vocab, longest: budget, protocol: Versions::CURRENT };
        let life = self.gateways[number].life + 1;
        self.gateways[number] = Gateway { core: Some(Core::new(settings, terms)), life, ..Gateway::default() };
        let serves = |replica| Some(record(replica, Some(self.replicas[replica].epoch.as_ref()?.number)));
        let all = (0..self.replicas.len()).filter_map(serves).collect();
        self.announce(number, News::Reset(all));
    }

    /// A gateway hears what the registry says, in order.
    pub(super) fn announce(&mut self, gateway: usize, news: News) {
        let arrives = self.now + self.random.below(5_000);
        let it = &mut self.gateways[gateway];
        it.news_until = it.news_until.max(arrives);
        let (life, after) = (it.life, it.news_until - self.now);
        self.post(after, Message::News(gateway, life, news));
    }

    /// It is gone, and whoever waited for it asks another one.
    pub(super) fn kill_gateway(&mut self, number: usize) {
        if self.gateways[number].core.take().is_none() {
            return;
        }
        let notice = self.random.below(20_000);
        let mut links: Vec<usize> = std::mem::take(&mut self.gateways[number].links).into_values().collect();
        links.sort_unstable();
        for link in links {
            self.links[link].gateway_end = false;
            match self.random.chance(500) {
                true => self.send_up(link, Up::Closed),
                false => self.cut(link, notice),
            }
        }
        self.note_waiting(number);
        self.ask_elsewhere(number);
        let back = self.random.between(self.shape.back / 4, 4 * self.shape.back);
        self.post(back, Message::StartGateway(number));
    }

    fn dial(&mut self, number: usize, link: LinkId, replica: usize, epoch: u64) {
        let line = self.lay(link, number, replica, epoch);
        self.gateways[number].links.insert(link, line);
        self.send_up(line, Up::Hello);
        self.post(50 * self.shape.delay, Message::Unwelcome(line));
    }

    pub(super) fn unwelcome(&mut self, link: usize) {
        if self.links[link].gateway_end && !self.links[link].welcomed {
            self.send_up(link, Up::Closed);
            self.ended(link, NoLink::Silent);
        }
    }

    fn ended(&mut self, link: usize, why: NoLink) {
        let (number, id) = (self.links[link].gateway, self.links[link].id);
        self.forget(link);
        self.tell(number, Event::Ended { link: id, why });
    }

    fn forget(&mut self, link: usize) {
        let it = &mut self.links[link];
        it.gateway_end = false;
        let gateway = &mut self.gateways[it.gateway];
        gateway.credits -= std::mem::take(&mut it.balance);
        gateway.links.remove(&it.id);
    }

    /// Something comes from a replica; after its end, a link is heard no more.
    pub(super) fn hear_replica(&mut self, line: usize, down: Down) {
        let number = self.links[line].gateway;
        if !self.links[line].gateway_end {
            return;
        }
        let link = self.links[line].id;
        match down {
            Down::Welcome(welcome) => {
                self.links[line].welcomed = true;
                self.tell(number, Event::Welcomed { link, welcome });
            }
            Down::Credits(tokens) => {
                let most = 2 * self.shape.budget as i64;
                let it = &mut self.links[line];
                let before = it.balance;
                it.balance = (before + tokens).min(most);
                self.gateways[number].credits += it.balance - before;
                self.tell(number, Event::Granted { link, tokens });
            }
            Down::Answers(answers) => {
                if self.trouble && self.random.chance(20) {
                    // it is heard again, when nobody asks any more
                    self.books.saw("late answers");
                    let later = self.random.below(100 * self.shape.delay);
                    self.post(later, Message::Down(line, Down::Answers(answers.clone())));
                }
                let mut answers = answers_of(&answers);
                self.garble(&mut answers);
                self.spoken(number, line, &answers);
                self.tell(number, Event::Answered { link, answers });
            }
            Down::Rejections(rejections) => {
                self.books.saw("declined");
                let answers: Vec<Answer> = rejections.into_iter().map(rejection).collect();
                self.spoken(number, line, &answers);
                self.tell(number, Event::Answered { link, answers });
            }
            Down::Draining => self.tell(number, Event::Draining(link)),
            Down::Closed => self.ended(line, NoLink::Closed),
        }
    }

    /// What arrives is not what the leader said.
    fn garble(&mut self, answers: &mut [Answer]) {
        if self.wrong == 0 || !self.random.chance(self.wrong) {
            return;
        }
        let place = self.random.below(answers.len() as u64) as usize;
        let kind = self.random.below(4);
        let Reply::Computed { ranks, partials, .. } = &mut answers[place].reply else { return };
        self.books.wronged = true;
        match kind {
            0 => {
                *ranks = ranks.iter().skip(1).copied().collect();
                *partials = partials.iter().skip(1).fold(Partials::empty(1), with);
            }
            1 => {
                *ranks = ranks.iter().chain(ranks.first()).copied().collect();
                *partials = partials.iter().chain(partials.iter().take(1)).fold(Partials::empty(1), with);
            }
            2 => *ranks = ranks.iter().map(|rank| RankStep { stamp: later(rank.stamp), ..*rank }).collect(),
            _ => answers[place].reply = Reply::Failed("out of memory".to_owned()),
        }
    }

    pub(super) fn tell(&mut self, number: usize, event: Event) {
        let Some(core) = &mut self.gateways[number].core else { return };
        let now = at(self.now);
        for action in self.meter.time(|| core.handle(now, event)) {
            self.act(number, action);
        }
        self.check_gateway(number);
        self.note_waiting(number);
        let gateway = &self.gateways[number];
        let wake = gateway.core.as_ref().and_then(Core::wakes_at);
        let wake = wake.map(|wake| self.late(wake.since(at(0)).as_micros() as Micros));
        if let Some(wake) = wake.filter(|wake| gateway.wakes.is_none_or(|before| *wake < before)) {
            self.gateways[number].wakes = Some(wake);
            self.post(wake - self.now, Message::WakeGateway(number));
        }
    }

    pub(super) fn wake_gateway(&mut self, number: usize) {
        // a later wake than the one that is due was posted before it
        if self.gateways[number].wakes == Some(self.now) {
            self.gateways[number].wakes = None;
            self.tell(number, Event::Tick);
        }
    }

    /// What its core says of itself is what has happened to it.
    fn check_gateway(&self, number: usize) {
        let gateway = &self.gateways[number];
        let Some(core) = &gateway.core else { return };
        let stats = core.stats();
        assert_eq!(stats.conversations, gateway.unanswered);
        assert!(stats.tokens <= self.limits.tokens && stats.conversations <= self.limits.conversations);
        assert_eq!(stats.credits, gateway.credits);
        assert!(stats.waiting_tokens + stats.sent_tokens >= stats.tokens);
        assert!(stats.conversations > 0 || (stats.tokens, stats.waiting_tokens, stats.sent_tokens) == (0, 0, 0));
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Refuse { request, refusal } => self.refused(request, refusal),
            Action::Dial { link, address, epoch, .. } => self.dial(number, link, address.parse().unwrap(), epoch),
            Action::HangUp { link } => {
                let Some(&line) = self.gateways[number].links.get(&link) else { return };
                let it = &self.links[line];
                let same_life = self.replicas[it.replica].epoch.as_ref().is_some_and(|now| now.number == it.epoch);
                if it.welcomed && same_life {
                    assert!(self.troubled || !self.thorough, "a replica that does what it should has stalled");
                    self.books.saw("stalled");
                }
                self.forget(line);
                self.send_up(line, Up::Closed);
            }
            Action::Serving(_) => {}
            Action::Send { link, dispatch } => {
                let line = self.gateways[number].links[&link];
                self.note_sent(number, line, &dispatch);
                let patience = dispatch.deadline.since(at(self.now)).as_micros() as Micros;
                assert!(patience > 0, "sent what nobody waits for");
                let (it, half) = (&mut self.links[line], (self.shape.budget / 2) as i64);
                let overdraft = dispatch.piece.urgent && it.balance + half >= dispatch.tokens as i64;
                assert!(it.balance > 0 || overdraft, "sent without credit");
                it.balance -= dispatch.tokens as i64;
                self.gateways[number].credits -= dispatch.tokens as i64;
                self.send_up(line, Up::Piece(dispatch.piece, patience));
            }
            Action::Withdraw { link, tag } => {
                // the link may have ended in this moment
                if let Some(line) = self.gateways[number].links.get(&link).copied() {
                    self.send_up(line, Up::Withdraw(tag));
                }
            }
            Action::Answer(outcome) => self.answered(number, outcome),
        }
    }
}

fn with(mut partials: Partials, partial: Partial<'_>) -> Partials {
    partials.push(partial);
    partials
}

fn later(stamp: Stamp) -> Stamp {
    Stamp { generation: stamp.generation + 1, ..stamp }
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
