//! From items to results: tokenize, hand over to the model's task, and put each outcome in its place.

use std::sync::Arc;
use std::time::Duration;

use prompt::{Fault, ItemError};
use proto::v1;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use service::trace;
use tokio::time::{Instant, sleep_until};

use super::{Call, Frontend, Model, Read, Reading};
use crate::core::{Failure, Item, LaneId, Outcome, Refusal};
use crate::metrics::{self, Owner, Stage};
use crate::problem::Problem;
use crate::runner::{Ask, Unanswered};
use crate::tokenizers::Wanted;

/// How a request takes its turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) lane: LaneId,
    /// Whether it waits when the queue is full, rather than fail.
    pub(super) waits: bool,
}

/// Results of all items, with the scores left out, and what has to be computed for these.
struct Draft {
    results: Vec<v1::ItemResult>,
    work: Vec<Item>,
    /// For each piece of work its item, and for each of its conversations the place in the item.
    places: Vec<(usize, Vec<usize>)>,
}

/// What became of one item: a result for each conversation, and what has to be computed.
type Encoded = (Vec<v1::Result>, Vec<usize>, Option<Item>);

/// Where time went.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// Until it was let in.
    before: Duration,
    /// From there until the last conversation was sent.
    queued: Duration,
    total: Duration,
}

/// Bytes of token ids that are looked at where they are: to hand them to another thread would take longer.
const AT_ONCE: usize = 256 << 10;

// === impl Frontend ===

impl Frontend {
    /// The results of items, in order, and where the time went.
    pub(super) async fn score(
        &self,
        call: &Call,
        reading: &Reading,
        reads: Vec<Read>,
        turn: Turn,
    ) -> Result<(Vec<v1::ItemResult>, v1::Timing), Problem> {
        let model = &reading.model;
        let owner = Owner { model: model.name.clone(), tenant: self.tenants.label(call.tenant.as_str()) };
        metrics::items(&owner, reads.len() as u64);
        let Draft { mut results, work, places } = self.draft(call, reading, reads).await?;
        metrics::stage(&model.name, Stage::Tokenize, call.received.elapsed());
        metrics::prompt_cache(&model.name, model.encoder.cache_hits_and_misses());
        let mut times = Times { before: call.received.elapsed(), ..Times::default() };
        if !work.is_empty() {
            let (before, outcomes) = self.compute(call, model, work, turn).await?;
            times.before = before;
            times.queued = outcomes.iter().map(|outcome| outcome.queued).max().unwrap_or_default();
            let why_none = self.why_none(model, &outcomes);
            for outcome in outcomes {
                let place = places.get(outcome.item);
                let place = place.and_then(|(item, places)| Some((*item, *places.get(outcome.conversation)?)));
                let result = place.and_then(|(item, number)| results.get_mut(item)?.results.get_mut(number));
                if let Some(result) = result {
                    fill(result, outcome, why_none.as_deref());
                }
            }
        }
        times.total = call.received.elapsed();
        count(&owner, &results, times);
        Ok((results, times.into()))
    }

    /// Renders and tokenizes.
    async fn draft(&self, call: &Call, reading: &Reading, reads: Vec<Read>) -> Result<Draft, Problem> {
        let bytes = reads.iter().fold(0, |sum: usize, read| sum.saturating_add(read.bytes));
        let Reading { model, options } = reading.clone();
        let encoded = if bytes <= AT_ONCE && reads.iter().all(Read::is_tokenized) {
            reads.iter().map(|read| encode(&model, &options, read)).collect()
        } else {
            let job = move |wanted: &dyn Wanted| {
                let encode =
                    |read: Read| if wanted.is_wanted() { encode(&model, &options, &read) } else { Encoded::default() };
                reads.into_par_iter().map(encode).collect::<Vec<_>>()
            };
            let encoded = self.tokenizers.run(bytes, call.deadline, job).await;
            encoded.map_err(|undone| Problem::untokenized(undone, bytes))?
        };
        let mut draft = Draft { results: Vec::with_capacity(encoded.len()), work: Vec::new(), places: Vec::new() };
        for (number, (results, places, item)) in encoded.into_iter().enumerate() {
            draft.results.push(v1::ItemResult { results });
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
        call: &Call,
        model: &Model,
        work: Vec<Item>,
        turn: Turn,
    ) -> Result<(Duration, Vec<Outcome>), Problem> {
        let ask = Ask {
            tenant: call.tenant.clone(),
            weight: call.weight,
            lane: turn.lane,
            deadline: call.deadline,
            // a child of ours where spans are exported, or else of whoever called
            traceparent: trace::current().map_or_else(|| call.traceparent.clone(), Arc::from),
            items: work,
        };
        if !turn.waits {
            return Ok((call.received.elapsed(), model.runner.score(ask).await?));
        }
        loop {
            let before = call.received.elapsed();
            match model.runner.score(ask.clone()).await {
                Err(Unanswered::Refused(Refusal::Full { retry_after, .. })) => {
                    let again = Instant::now() + retry_after;
                    sleep_until(again.min(call.deadline)).await;
                    if again >= call.deadline {
                        return Err(Problem::deadline());
                    }
                }
                outcomes => return Ok((before, outcomes?)),
            }
        }
    }

    /// Why no replica takes work, if that matters and none does.
    fn why_none(&self, model: &Model, outcomes: &[Outcome]) -> Option<String> {
        let matters =
            |outcome: &Outcome| matches!(outcome.result, Err(Failure::DeadlineExceeded | Failure::Unavailable));
        let none = outcomes.iter().any(matters) && model.runner.serving().ready == 0;
        none.then(|| self.roster.why_none(&model.name))
    }
}

fn encode(model: &Model, options: &prompt::Options, read: &Read) -> Encoded {
    let batch = match &read.input {
        Ok(input) => model.encoder.encode(input, options),
        Err(error) => prompt::Batch { items: vec![Err(error.clone())], tokenized_bytes: 0, prompt: 0 },
    };
    let mut results = Vec::with_capacity(read.conversations);
    let (mut places, mut ids) = (Vec::new(), Vec::new());
    for number in 0..read.conversations {
        // what is wrong with the prompt of a group is said once, of all its conversations
        match batch.items.get(number).or(batch.items.last()) {
            Some(Ok(encoded)) => {
                places.push(number);
                ids.push(&encoded.ids);
                let (tokens, truncated_from) = (encoded.ids.len(), encoded.truncated_from.unwrap_or_default());
                results.push(v1::Result {
                    tokens: small(tokens),
                    truncated_from: small(truncated_from),
                    ..no_result()
                });
            }
            Some(Err(error)) => results.push(failed(read, error)),
            None => results.push(no_result()),
        }
    }
    let item = (!ids.is_empty()).then(|| Item::new(&ids, batch.prompt));
    (results, places, item)
}

fn failed(read: &Read, error: &ItemError) -> v1::Result {
    let tokens = match error.fault {
        Fault::TooLong { tokens, .. } => small(tokens),
        _ => 0,
    };
    let problem = Problem::from(error);
    let status = problem.conversation().into();
    let (error, problem) = read.say(problem);
    v1::Result { status, tokens, error, problem, ..no_result() }
}

/// A result that says nothing yet.
fn no_result() -> v1::Result {
    v1::Result::default()
}

/// The results of an item that is not looked at, in a stream.
pub(super) fn not_scored(conversations: usize, problem: Problem) -> v1::ItemResult {
    let (status, error) = (problem.conversation().into(), problem.to_string());
    let result = v1::Result { status, error, problem: Some(problem.into()), ..no_result() };
    v1::ItemResult { results: vec![result; conversations] }
}

/// Puts an outcome into its place.
fn fill(result: &mut v1::Result, outcome: Outcome, why_none: Option<&str>) {
    match outcome.result {
        Ok(score) => {
            let status = if result.truncated_from > 0 { v1::Status::Truncated } else { v1::Status::Ok };
            result.status = status.into();
            result.score = Some(score.outputs.score);
            if !score.outputs.others.is_empty() {
                result.outputs = score.outputs.iter().collect();
            }
            result.computed_tokens = score.tokens;
            result.generation = score.stamp.generation;
            result.fingerprint = score.fingerprint.to_string();
        }
        Err(failure) => {
            let problem = Problem::of_failure(&failure, why_none);
            (result.status, result.error) = (problem.conversation().into(), problem.to_string());
            result.problem = Some(problem.into());
        }
    }
}

fn count(owner: &Owner, results: &[v1::ItemResult], times: Times) {
    let results = || results.iter().flat_map(|item| &item.results);
    let mut statuses = [0_u64; 8];
    let (mut tokens, mut computed) = (0, 0);
    for result in results() {
        if let Some(count) = statuses.get_mut(result.status as usize) {
            *count += 1;
        }
        if result.score.is_some() {
            tokens += u64::from(result.tokens);
            computed += u64::from(result.computed_tokens);
        }
    }
    for (status, count) in (0..).zip(statuses).filter(|(_, count)| *count > 0) {
        let status = v1::Status::try_from(status).unwrap_or_default();
        metrics::conversations_done(owner, status.as_str_name(), count);
    }
    metrics::tokens(owner, tokens, computed);
    metrics::scores(&owner.model, results().filter_map(|result| result.score));
    metrics::stage(&owner.model, Stage::Queue, times.queued);
    metrics::stage(&owner.model, Stage::Compute, times.computed());
    metrics::stage(&owner.model, Stage::Total, times.total);
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

// === impl Times ===

impl Times {
    fn computed(self) -> Duration {
        self.total.saturating_sub(self.before + self.queued)
    }
}

impl From<Times> for v1::Timing {
    fn from(times: Times) -> Self {
        let queue_seconds = (times.before + times.queued).as_secs_f64();
        Self { queue_seconds, compute_seconds: times.computed().as_secs_f64() }
    }
}
