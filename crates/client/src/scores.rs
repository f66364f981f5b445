//! The engine: takes items in while there is room, sends them to one gateway after the other until each has its answer, and
//! gives the answers out. It works while the next answer is waited for.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use proto::{Message as _, v1};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

use crate::answer::results;
use crate::connector::{Connector, Found};
use crate::error::retry_after;
use crate::exchange::Reply;
use crate::window::{Unanswered, Window};
use crate::{Answer, Error, Failure, Options, Order, Work};

/// Answers to work, one after the other.
pub struct Scores<T> {
    options: Options,
    connector: Connector,
    talk: Option<Talk>,
    /// The largest item that the gateway takes which was found last.
    largest: usize,
    /// What is to come; None once all has come, or there is no use in it.
    work: Option<Pin<Box<dyn Stream<Item = Work<T>> + Send>>>,
    window: Window<T>,
    /// What has its answer and was not given out, by its number.
    answered: BTreeMap<u64, Answer<T>>,
    /// Work that came in, and that went out.
    taken: u64,
    given: u64,
    resent: u64,
}

/// A gateway that is talked to.
struct Talk {
    found: Found,
    /// What the first item says of how all are read.
    reading: Option<v1::Options>,
    /// Whether it takes more; what happened if not is on its way.
    open: bool,
    look: Interval,
    /// When it said something last.
    heard: Instant,
}

/// What was waited for.
enum Happened<T> {
    Did(Option<Reply>),
    Came(Option<Work<T>>),
    Silence,
    Sent,
}

/// How often a gateway that says nothing is asked whether there is a replica.
const LOOK: Duration = Duration::from_secs(2);
/// Answers that may wait for those before them.
const MOST_ANSWERED: usize = 16 * 1024;

// === impl Scores ===

impl<T> Scores<T> {
    pub(crate) fn new(
        options: Options,
        connector: Connector,
        found: Found,
        work: Pin<Box<dyn Stream<Item = Work<T>> + Send>>,
    ) -> Self {
        let largest = found.largest;
        let (talk, window) = (Talk::new(found, connector.reading()), Window::new(options.items, options.bytes));
        let (talk, work, answered) = (Some(talk), Some(work), BTreeMap::new());
        Self { options, connector, talk, largest, work, window, answered, taken: 0, given: 0, resent: 0 }
    }

    /// The next answer; None when there are no more. Whoever drops this future loses nothing.
    ///
    /// # Errors
    /// If no more answers come: what has none by then is lost with this.
    pub async fn next(&mut self) -> Option<Result<Answer<T>, Error>> {
        loop {
            if let Some(answer) = self.ready() {
                return Some(Ok(answer));
            }
            if self.work.is_none() && self.window.is_empty() {
                return None;
            }
            if let Err(error) = self.go_on().await {
                self.work = None;
                self.window = Window::new(0, 0);
                return Some(Err(error));
            }
        }
    }

    /// The next answer, if it is there.
    pub fn ready(&mut self) -> Option<Answer<T>> {
        let (number, answer) = self.answered.pop_first()?;
        if self.options.order == Order::AsGiven && number != self.given + 1 {
            self.answered.insert(number, answer);
            return None;
        }
        self.given += 1;
        Some(answer)
    }

    /// How often an item was sent once more.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Waits for the next thing to happen, and does what follows.
    async fn go_on(&mut self) -> Result<(), Error> {
        if self.talk.is_none() {
            let found = self.connector.connect().await?;
            self.largest = found.largest;
            self.talk = Some(Talk::new(found, self.connector.reading()));
        }
        let Some(talk) = &mut self.talk else { return Ok(()) };
        let room = self.window.has_room() && self.answered.len() < MOST_ANSWERED;
        let due = self.window.next_due();
        let is_due = due.is_some_and(|due| due <= Instant::now());
        let happened = tokio::select! {
            reply = talk.found.exchange.replies.recv() => Happened::Did(reply),
            permit = talk.found.exchange.requests.reserve(), if is_due && talk.open => {
                match permit {
                    Ok(permit) => if let Some(request) = self.window.send() {
                        permit.send(v1::ScoreStreamRequest { options: talk.reading.take(), ..request });
                    },
                    Err(_) => talk.open = false,
                }
                Happened::Sent
            }
            work = next_of(&mut self.work), if room => Happened::Came(work),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due => Happened::Sent,
            _ = talk.look.tick(), if !self.window.is_empty() => Happened::Silence,
        };
        match happened {
            Happened::Did(Some(Reply::Answer(answer))) => self.hear(answer)?,
            Happened::Did(Some(Reply::Full(number, delay))) => self.again(number, Instant::now() + delay),
            Happened::Did(Some(Reply::Broken(status))) => self.lost(status).await?,
            Happened::Did(None) => self.lost(Status::unavailable("the connection is gone")).await?,
            Happened::Came(Some(work)) => self.take(work),
            Happened::Came(None) => self.work = None,
            Happened::Silence => self.look().await?,
            Happened::Sent => {}
        }
        Ok(())
    }

    /// Takes work in.
    fn take(&mut self, work: Work<T>) {
        let Work { token, item } = work;
        self.taken += 1;
        let Some(item) = item else {
            self.answered.insert(self.taken, Answer { token, results: Vec::new() });
            return;
        };
        let bytes = item.encoded_len();
        if bytes > self.largest {
            let largest = self.largest;
            let problem = format!("{bytes} bytes are more than the {largest} that the gateway takes (limits.message)");
            return self.fail(self.taken, token, &item, problem);
        }
        if self.window.is_empty() {
            // there was nothing that could have come of it
            self.connector.patience.renew();
            self.heard();
        }
        self.window.admit(self.taken, token, item, Instant::now());
    }

    /// Takes the answer to an item, unless it is to be sent again.
    fn hear(&mut self, answer: v1::ScoreStreamResponse) -> Result<(), Error> {
        self.heard();
        let given = answer.item.unwrap_or_default().results;
        if let Some(result) = given.iter().find(|result| result.status() == v1::Status::Unavailable) {
            let patience = self.connector.patience.limit;
            if let Some(at) = self.window.unavailable(answer.id, Instant::now(), patience) {
                self.again(answer.id, at);
                return Ok(());
            }
            if self.work.is_some() && self.connector.patience.ends_within(Duration::ZERO) {
                return Err(self.connector.no_replica(result.error.clone()));
            }
        } else {
            self.connector.good();
        }
        if let Some(Unanswered { item, token, .. }) = self.window.answered(answer.id) {
            let results = results(given, item.conversations());
            self.answered.insert(answer.id, Answer { token, results });
        }
        Ok(())
    }

    /// The gateway is gone: what it had goes to the next one.
    async fn lost(&mut self, status: Status) -> Result<(), Error> {
        let Some(talk) = self.talk.take() else { return Ok(()) };
        self.resent += self.window.all_again(Instant::now());
        if self.window.is_empty() {
            // nothing was asked of it
            self.connector.patience.renew();
        }
        let endpoint = &talk.found.gateway.name;
        let is_too_large = match status.code() {
            Code::OutOfRange => true,
            Code::ResourceExhausted => retry_after(&status).is_none(),
            _ => false,
        };
        if is_too_large && self.give_up_largest(&status) {
            tracing::warn!(endpoint, "{}", status.message());
            return Ok(());
        }
        self.connector.lost(endpoint, &status).await
    }

    /// Has an item sent again, unless it has its answer.
    fn again(&mut self, number: u64, at: Instant) {
        self.heard();
        self.resent += u64::from(self.window.again(number, at));
    }

    fn heard(&mut self) {
        if let Some(talk) = &mut self.talk {
            talk.heard = Instant::now();
        }
    }

    /// Looks whether there is anything to wait for, if nothing was heard for some time.
    async fn look(&mut self) -> Result<(), Error> {
        let Some(talk) = self.talk.as_ref().filter(|talk| talk.heard.elapsed() >= LOOK) else { return Ok(()) };
        if self.connector.is_ready(&talk.found.gateway).await {
            self.connector.patience.renew();
        } else if self.connector.patience.ends_within(Duration::ZERO) {
            return Err(self.connector.no_replica(String::new()));
        }
        Ok(())
    }

    /// The gateway takes no message that is so large: the largest item has no score, and the others go on.
    fn give_up_largest(&mut self, status: &Status) -> bool {
        let Some(number) = self.window.largest() else { return false };
        let Some(Unanswered { item, token, .. }) = self.window.answered(number) else { return false };
        self.fail(number, token, &item, format!("it is too large for the gateway: {}", status.message()));
        true
    }

    fn fail(&mut self, number: u64, token: T, item: &v1::Item, problem: String) {
        let failure = Failure::new(v1::Status::Invalid, problem);
        let results = vec![Err(failure); item.conversations()];
        self.answered.insert(number, Answer { token, results });
    }
}

async fn next_of<T>(work: &mut Option<Pin<Box<dyn Stream<Item = Work<T>> + Send>>>) -> Option<Work<T>> {
    match work {
        Some(work) => work.next().await,
        None => std::future::pending().await,
    }
}

// === impl Talk ===

impl Talk {
    fn new(found: Found, reading: v1::Options) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { found, reading: Some(reading), open: true, look, heard: Instant::now() }
    }
}
