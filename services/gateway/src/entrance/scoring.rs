//! From what is given to answers: tokenize, hand over to the model's task, and put each outcome in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prompt::{Fault, ItemError};
use proto::v1;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use service::trace;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::{Caller, Entrance, Given, Model, Reading};
use crate::core::{Failure, Item, LaneId, Outcome, Refusal, Score, Share};
use crate::metrics::{self, Owner, Stage};
use crate::problem::Problem;
use crate::runner::{Ask, Unanswered};
use crate::tokenizers::{Load, ROOM, Wanted};

/// How a call, or an item of a stream, takes its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(super) lane: LaneId,
    /// Whether it waits when the queue is full, rather than fail.
    pub(super) waits: bool,
}

/// What became of all that was given.
pub(crate) struct Scored {
    /// For each in order, an answer for each of its conversations.
    pub(crate) answers: Vec<Vec<Answer>>,
    pub(crate) times: Times,
}

/// What became of one conversation.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The score with its stamp and fingerprint, or why there is none.
    pub(crate) result: Result<Score, Problem>,
    /// What the score is for; of a conversation that is too long, all it has.
    pub(crate) tokens: u32,
    /// The tokens before truncation; 0 if nothing was cut.
    pub(crate) truncated_from: u32,
}

/// Where time went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    /// Until it was let in.
    before: Duration,
    /// From there until the last conversation was sent.
    queued: Duration,
    total: Duration,
}

/// Answers to all that was given, without the scores, and what has to be computed for these.
struct Draft {
    answers: Vec<Vec<Answer>>,
    work: Vec<Item>,
    /// For each piece of work whose it is, and the place in that for each of its conversations.
    places: Vec<(usize, Vec<usize>)>,
}

/// An answer for each conversation of what was given, and those that have to be computed.
type Encoded = (Vec<Answer>, Vec<usize>, Option<Item>);

/// Longer texts of one call are tokenized one after the other: each may take much memory.
const LONG: usize = 32 << 10;
/// Bytes of token ids that are looked at where they are: to hand them to another thread would take longer.
const AT_ONCE: usize = 256 << 10;

// === impl Entrance ===

impl Entrance {
    /// Answers all that is given, in order.
    pub(crate) async fn score(
        &self,
        caller: &Caller,
        reading: &Reading,
        given: Vec<Given>,
        turn: Turn,
    ) -> Result<Scored, Problem> {
        self.answer(caller, reading, given, turn).instrument(caller.span.clone()).await
    }

    async fn answer(
        &self,
        caller: &Caller,
        reading: &Reading,
        given: Vec<Given>,
        turn: Turn,
    ) -> Result<Scored, Problem> {
        let model = &reading.model;
        let owner = Owner { model: model.name.clone(), tenant: self.tenants.label(caller.tenant.as_str()) };
        metrics::items(&owner, given.len() as u64);
        let Draft { mut answers, work, places } = self.draft(caller, reading, given, turn.lane).await?;
        metrics::stage(&model.name, Stage::Tokenize, caller.received.elapsed());
        metrics::prompt_cache(&model.name, model.encoder.cache_hits_and_misses());
        let mut times = Times { before: caller.received.elapsed(), ..Times::default() };
        if !work.is_empty() {
            let (before, outcomes) = self.compute(caller, model, work, turn).await?;
            times.before = before;
            times.queued = outcomes.iter().map(|outcome| outcome.queued).max().unwrap_or_default();
            let why_none = why_none(model, &outcomes).await;
            for Outcome { item, conversation, result, .. } in outcomes {
                let place = places.get(item);
                let place = place.and_then(|(item, places)| Some((*item, *places.get(conversation)?)));
                if let Some(answer) = place.and_then(|(item, number)| answers.get_mut(item)?.get_mut(number)) {
                    answer.result = result.map_err(|failure| Problem::of_failure(&failure, why_none.as_deref()));
                }
            }
        }
        times.total = caller.received.elapsed();
        count(&owner, &answers, times);
        Ok(Scored { answers, times })
    }

    /// What it takes to tokenize: of memory, what is rendered with its ids, and what the threads work on.
    pub(super) fn load(&self, caller: &Caller, lane: LaneId, model: &Model, given: &[Given]) -> Load {
        let bytes = given.iter().fold(0, |sum: usize, given| sum.saturating_add(given.bytes));
        let longest = longest(given);
        let at_a_time = if longest > LONG { 1 } else { given.len().min(self.tokenizers.threads()) };
        let work = model.encoder.working_memory(longest).saturating_mul(at_a_time);
        let memory = bytes.saturating_add(if longest > LONG { work } else { work.min(ROOM / 2) });
        Load { share: Share { tenant: caller.tenant.clone(), weight: caller.weight, lane }, bytes, memory }
    }

    /// Renders and tokenizes.
    async fn draft(
        &self,
        caller: &Caller,
        reading: &Reading,
        given: Vec<Given>,
        lane: LaneId,
    ) -> Result<Draft, Problem> {
        let load = self.load(caller, lane, &reading.model, &given);
        let memory = load.memory;
        let Reading { model, options } = reading.clone();
        let encoded = if load.bytes <= AT_ONCE && given.iter().all(Given::is_tokenized) {
            given.iter().map(|given| encode(&model, &options, given, &|| true)).collect()
        } else {
            let job = move |wanted: &dyn Wanted| {
                let is_wanted = || wanted.is_wanted();
                let encode = |given: Given| match is_wanted() {
                    true => encode(&model, &options, &given, &is_wanted),
                    false => Encoded::default(),
                };
                match longest(&given) > LONG {
                    true => given.into_iter().map(encode).collect::<Vec<_>>(),
                    false => given.into_par_iter().map(encode).collect(),
                }
            };
            let encoded = self.tokenizers.run(load, caller.deadline, job).await;
            encoded.map_err(|undone| Problem::untokenized(undone, memory))?
        };
        let mut draft = Draft { answers: Vec::with_capacity(encoded.len()), work: Vec::new(), places: Vec::new() };
        for (number, (answers, places, item)) in encoded.into_iter().enumerate() {
            draft.answers.push(answers);
            draft.work.extend(item);
            if !places.is_empty() {
                draft.places.push((number, places));
            }
        }
        Ok(draft)
    }

    /// Has the work computed; says how long it took until it was let in, and what came of it.
    async fn compute(
        &self,
        caller: &Caller,
        model: &Model,
        work: Vec<Item>,
        turn: Turn,
    ) -> Result<(Duration, Vec<Outcome>), Problem> {
        let ask = Ask {
            tenant: caller.tenant.clone(),
            weight: caller.weight,
            lane: turn.lane,
            deadline: caller.deadline,
            // a child of ours where spans are exported, or else of whoever called
            traceparent: trace::current().map_or_else(|| caller.traceparent.clone(), Arc::from),
            items: work,
        };
        if !turn.waits {
            return Ok((caller.received.elapsed(), model.runner.score(ask).await?));
        }
        loop {
            let before = caller.received.elapsed();
            match model.runner.score(ask.clone()).await {
                Err(Unanswered::Refused(Refusal::Full { retry_after, .. })) => {
                    let again = Instant::now() + retry_after;
                    sleep_until(again.min(caller.deadline)).await;
                    if again >= caller.deadline {
                        return Err(Problem::deadline());
                    }
                }
                outcomes => return Ok((before, outcomes?)),
            }
        }
    }
}

/// Why no replica takes work, if that matters and none does.
async fn why_none(model: &Model, outcomes: &[Outcome]) -> Option<String> {
    let matters = |outcome: &Outcome| matches!(outcome.result, Err(Failure::DeadlineExceeded | Failure::Unavailable));
    if outcomes.iter().any(matters) && model.runner.serving().ready == 0 {
        return Some(model.runner.why_none(&model.name).await);
    }
    None
}

fn encode(model: &Model, options: &prompt::Options, given: &Given, wanted: &(dyn Fn() -> bool + Sync)) -> Encoded {
    let batch = match &given.input {
        Ok(input) => model.encoder.encode_while(input, options, wanted),
        Err(error) => prompt::Batch { items: vec![Err(error.clone())], tokenized_bytes: 0, prompt: 0 },
    };
    let mut answers = Vec::with_capacity(given.conversations);
    let (mut places, mut ids) = (Vec::new(), Vec::new());
    for number in 0..given.conversations {
        // what is wrong with the prompt of a group is said once, of all its conversations
        let answer = match batch.items.get(number).or(batch.items.last()) {
            Some(Ok(encoded)) => {
                places.push(number);
                ids.push(&encoded.ids);
                let truncated_from = small(encoded.truncated_from.unwrap_or_default());
                Answer { tokens: small(encoded.ids.len()), truncated_from, ..Answer::without() }
            }
            Some(Err(error)) => Answer::unread(error),
            None => Answer::without(),
        };
        answers.push(answer);
    }
    let item = (!ids.is_empty()).then(|| Item::new(&ids, batch.prompt));
    (answers, places, item)
}

fn longest(given: &[Given]) -> usize {
    given.iter().map(|given| given.longest).max().unwrap_or_default()
}

fn count(owner: &Owner, answers: &[Vec<Answer>], times: Times) {
    let answers = || answers.iter().flatten();
    let mut statuses: BTreeMap<v1::Status, u64> = BTreeMap::new();
    let (mut tokens, mut computed) = (0, 0);
    for answer in answers() {
        *statuses.entry(answer.status()).or_default() += 1;
        if let Ok(score) = &answer.result {
            tokens += u64::from(answer.tokens);
            computed += u64::from(score.tokens);
        }
    }
    for (status, count) in statuses {
        metrics::conversations_done(owner, status, count);
    }
    metrics::tokens(owner, tokens, computed);
    metrics::scores(&owner.model, answers().filter_map(|answer| Some(answer.result.as_ref().ok()?.outputs.score)));
    metrics::stage(&owner.model, Stage::Queue, times.queued);
    metrics::stage(&owner.model, Stage::Compute, times.computed());
    metrics::stage(&owner.model, Stage::Total, times.total);
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

// === impl Answer ===

impl Answer {
    /// What stands in the place of an answer until there is one.
    fn without() -> Self {
        Self { result: Err(Problem::internal()), tokens: 0, truncated_from: 0 }
    }

    /// Of a conversation that cannot be read.
    fn unread(error: &ItemError) -> Self {
        let tokens = match error.fault {
            Fault::TooLong { tokens, .. } => small(tokens),
            _ => 0,
        };
        Self { result: Err(error.into()), tokens, truncated_from: 0 }
    }

    /// What the protocol calls it.
    pub(crate) fn status(&self) -> v1::Status {
        match &self.result {
            Ok(_) if self.truncated_from > 0 => v1::Status::Truncated,
            Ok(_) => v1::Status::Ok,
            Err(problem) => problem.conversation(),
        }
    }
}

// === impl Times ===

impl Times {
    /// Until the last conversation was sent to a replica.
    pub(crate) fn queued(self) -> Duration {
        self.before + self.queued
    }

    /// From there to the last answer.
    pub(crate) fn computed(self) -> Duration {
        self.total.saturating_sub(self.queued())
    }
}
