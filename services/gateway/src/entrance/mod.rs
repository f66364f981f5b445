//! The way in, whatever is spoken outside: who calls and what is given becomes work for a model's task, and the outcomes
//! become answers. `grpc` and `http` are edges over it, and nothing here is of their types.
//!
//! ```text
//! edge --Caller, Reading, Given--> token ids --runner--> outcomes --Answer--> edge
//! ```

mod caller;
mod given;
mod names;
mod scoring;
mod tokenize;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prompt::Encoder;
use proto::v1::ProblemCode;
use tokio_util::sync::CancellationToken;

pub(crate) use self::caller::Caller;
pub(crate) use self::given::Given;
pub(crate) use self::names::Names;
pub(crate) use self::scoring::{Answer, Scored, Times, Turn};
pub(crate) use self::tokenize::Shown;
use crate::core::LaneId;
use crate::metrics;
use crate::options::Tenants;
use crate::problem::Problem;
use crate::runner;
use crate::tokenizers::Tokenizers;

/// A model, as far as clients are concerned.
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) encoder: Encoder,
    pub(crate) max_length: usize,
    pub(crate) runner: runner::Handle,
}

/// What all calls share.
pub(crate) struct Entrance {
    pub(crate) models: BTreeMap<String, Arc<Model>>,
    pub(crate) tokenizers: Tokenizers,
    pub(crate) tenants: Arc<Tenants>,
    /// The tenants that are told apart.
    pub(crate) names: Names,
    pub(crate) default_timeout: Duration,
    pub(crate) stream_items: usize,
    /// The largest message of a client.
    pub(crate) largest: usize,
    pub(crate) lanes: AtomicU64,
    /// Nothing new is accepted.
    pub(crate) ending: CancellationToken,
    /// What was accepted is given up.
    pub(crate) ended: CancellationToken,
}

/// By which model, and how, conversations are read.
#[derive(Clone)]
pub(crate) struct Reading {
    model: Arc<Model>,
    options: prompt::Options,
}

/// Counts a call when it is over, also if nobody waits for it any more.
pub(crate) struct Counted {
    call: &'static str,
    code: tonic::Code,
}

// === impl Entrance ===

impl Entrance {
    /// Does what a call of this name asks, and counts it. When the gateway ends it comes to nothing.
    pub(crate) async fn call<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let counted = Counted::new(name);
        let done = match self.ending.is_cancelled() {
            true => None,
            false => self.ended.run_until_cancelled(work).await,
        };
        let done = done.unwrap_or_else(|| Err(Problem::ending()));
        counted.with(done.as_ref().err().map_or(tonic::Code::Ok, Problem::call));
        done
    }

    /// What a model and options mean; what is wrong with them is named `model` or `max_length`.
    pub(crate) fn reading(&self, model: &str, options: prompt::Options) -> Result<Reading, Problem> {
        let model = self.model(model)?;
        let limit = options.max_length.unwrap_or(model.max_length);
        if limit > model.max_length {
            let message = format!("{limit}, the model takes {} tokens", model.max_length);
            return Err(Problem::bad_request("max_length", message));
        }
        Ok(Reading { model, options: prompt::Options { max_length: Some(limit), ..options } })
    }

    fn model(&self, name: &str) -> Result<Arc<Model>, Problem> {
        let served = || self.models.keys().cloned().collect::<Vec<_>>().join(", ");
        let mut models = self.models.values();
        match (name, models.next(), models.next()) {
            ("", Some(only), None) => Ok(Arc::clone(only)),
            ("", ..) => Err(Problem::bad_request("model", format!("name one of {}", served()))),
            _ => self.models.get(name).cloned().ok_or_else(|| {
                let name: String = name.chars().take(200).collect();
                let message = format!("the model {name:?} is not served, but: {}", served());
                Problem::new(ProblemCode::UnknownModel, message)
            }),
        }
    }

    /// The turn of a call, or of a stream with all its items; `waits` if they wait when the queue is full.
    pub(crate) fn turn(&self, waits: bool) -> Turn {
        Turn { lane: LaneId(self.lanes.fetch_add(1, Ordering::Relaxed)), waits }
    }
}

// === impl Counted ===

impl Counted {
    pub(crate) fn new(call: &'static str) -> Self {
        Self { call, code: tonic::Code::Cancelled }
    }

    pub(crate) fn with(mut self, code: tonic::Code) {
        self.code = code;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::request_done(self.call, self.code);
    }
}
