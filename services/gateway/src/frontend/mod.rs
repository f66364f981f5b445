//! The public protocol: what a client asks becomes work for a model's task, and the outcomes become answers.
//!
//! ```text
//! item --input--> encoder's input --scoring--> token ids --runner--> outcomes --scoring--> results
//! ```

mod call;
mod input;
mod scoring;
mod stream;
mod tokenize;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prompt::{Encoder, Truncate};
use proto::v1::reward_service_server::RewardService;
use proto::v1::{self, ProblemCode as Code};
use service::trace::STAGE;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use self::call::Call;
use self::input::Read;
use self::scoring::Turn;
use crate::core::LaneId;
use crate::metrics;
use crate::observer::Roster;
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
pub(crate) struct Frontend {
    pub(crate) models: BTreeMap<String, Arc<Model>>,
    pub(crate) tokenizers: Tokenizers,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) roster: Roster,
    pub(crate) default_timeout: Duration,
    pub(crate) stream_items: usize,
    pub(crate) lanes: AtomicU64,
}

/// Serves clients until it is told to end.
#[derive(Clone)]
pub(crate) struct Rewards {
    pub(crate) frontend: Arc<Frontend>,
    /// Nothing new is accepted.
    pub(crate) ending: CancellationToken,
    /// What was accepted is given up.
    pub(crate) ended: CancellationToken,
}

/// How items are read.
#[derive(Clone)]
struct Reading {
    model: Arc<Model>,
    options: prompt::Options,
}

/// Counts a call when it is over, also if nobody waits for it any more.
struct Counted {
    rpc: &'static str,
    code: tonic::Code,
}

// === impl Frontend ===

impl Frontend {
    fn call<T>(&self, request: &Request<T>) -> Result<Call, Problem> {
        Call::new(request.metadata(), &self.tenants, self.default_timeout)
    }

    fn lane(&self) -> LaneId {
        LaneId(self.lanes.fetch_add(1, Ordering::Relaxed))
    }

    /// What options mean.
    fn reading(&self, options: Option<&v1::Options>) -> Result<Reading, Problem> {
        let default = v1::Options::default();
        let options = options.unwrap_or(&default);
        let model = self.model(&options.model)?;
        let limit = match options.max_length as usize {
            0 => model.max_length,
            wanted if wanted > model.max_length => {
                let limit = model.max_length;
                return Err(Problem::bad_request(
                    "options.max_length",
                    format!("{wanted}, the model takes {limit} tokens"),
                ));
            }
            wanted => wanted,
        };
        let truncate = match v1::Truncation::try_from(options.truncation) {
            Ok(v1::Truncation::Unspecified | v1::Truncation::None) => Truncate::None,
            Ok(v1::Truncation::Left) => Truncate::Left,
            Ok(v1::Truncation::Right) => Truncate::Right,
            Err(_) => {
                let unknown = options.truncation;
                return Err(Problem::bad_request("options.truncation", format!("{unknown} is not known")));
            }
        };
        let strict_special_tokens = options.strict_special_tokens;
        Ok(Reading { model, options: prompt::Options { max_length: Some(limit), truncate, strict_special_tokens } })
    }

    fn model(&self, name: &str) -> Result<Arc<Model>, Problem> {
        let served = || self.models.keys().cloned().collect::<Vec<_>>().join(", ");
        let mut models = self.models.values();
        match (name, models.next(), models.next()) {
            ("", Some(only), None) => Ok(Arc::clone(only)),
            ("", ..) => Err(Problem::bad_request("options.model", format!("name one of {}", served()))),
            _ => self.models.get(name).cloned().ok_or_else(|| {
                let name: String = name.chars().take(200).collect();
                Problem::new(Code::UnknownModel, format!("the model {name:?} is not served, but: {}", served()))
            }),
        }
    }

    fn list(&self) -> Vec<v1::Model> {
        let model = |model: &Arc<Model>| {
            let serving = model.runner.serving();
            let (generation, fingerprint) =
                serving.version.map_or_else(Default::default, |it| (it.generation, it.fingerprint.to_string()));
            v1::Model {
                name: model.name.clone(),
                generation,
                fingerprint,
                max_length: u32::try_from(model.max_length).unwrap_or(u32::MAX),
                replicas_ready: u32::try_from(serving.ready).unwrap_or(u32::MAX),
            }
        };
        self.models.values().map(model).collect()
    }
}

/// Reads the items of one request.
fn read(items: Vec<v1::Item>) -> Result<Vec<Read>, Problem> {
    if items.is_empty() {
        return Err(Problem::bad_request("items", "there are none"));
    }
    let _receive = tracing::debug_span!(target: STAGE, "receive", items = items.len()).entered();
    input::read_all(items).map_err(Problem::too_large)
}

// === impl Rewards ===

impl Rewards {
    /// Does something that has to be over when the gateway ends.
    async fn accept<T>(&self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        if self.ending.is_cancelled() {
            return Err(Problem::ending());
        }
        self.ended.run_until_cancelled(work).await.unwrap_or(Err(Problem::ending()))
    }

    /// Scores the items of one request, and counts it as a call of `rpc`.
    pub(crate) async fn answer(
        &self,
        rpc: &'static str,
        request: Request<v1::ScoreRequest>,
    ) -> Result<v1::ScoreResponse, Problem> {
        let counted = Counted::new(rpc);
        let answer = self.accept(self.score_items(request)).await;
        counted.with(answer.as_ref().err().map_or(tonic::Code::Ok, Problem::call));
        answer
    }

    async fn score_items(&self, request: Request<v1::ScoreRequest>) -> Result<v1::ScoreResponse, Problem> {
        let call = self.frontend.call(&request)?;
        let v1::ScoreRequest { items, options } = request.into_inner();
        let reading = self.frontend.reading(options.as_ref())?;
        let turn = Turn { lane: self.frontend.lane(), waits: false };
        let reads = call.span.in_scope(|| read(items))?;
        let scored = self.frontend.score(&call, &reading, reads, turn).instrument(call.span.clone());
        let (items, timing) = scored.await?;
        Ok(v1::ScoreResponse { items, timing: Some(timing) })
    }

    async fn tokenize_items(&self, request: Request<v1::TokenizeRequest>) -> Result<v1::TokenizeResponse, Problem> {
        let call = self.frontend.call(&request)?;
        let v1::TokenizeRequest { items, options } = request.into_inner();
        let reading = self.frontend.reading(options.as_ref())?;
        let reads = call.span.in_scope(|| read(items))?;
        let items = self.frontend.tokenize(&call, &reading, reads).instrument(call.span.clone()).await?;
        Ok(v1::TokenizeResponse { items })
    }
}

#[tonic::async_trait]
impl RewardService for Rewards {
    type ScoreStreamStream = ReceiverStream<Result<v1::ScoreStreamResponse, Status>>;

    async fn score(&self, request: Request<v1::ScoreRequest>) -> Result<Response<v1::ScoreResponse>, Status> {
        Ok(Response::new(self.answer("Score", request).await?))
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<v1::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        let counted = Counted::new("ScoreStream");
        let call = match self.frontend.call(&request) {
            Ok(call) if !self.ending.is_cancelled() => call,
            Ok(_) => return counted.done(Err(Problem::ending())),
            Err(error) => return counted.done(Err(error)),
        };
        Ok(Response::new(stream::start(self.clone(), call, request.into_inner(), counted)))
    }

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        let counted = Counted::new("Tokenize");
        counted.done(self.accept(self.tokenize_items(request)).await)
    }

    async fn list_models(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        Counted::new("ListModels").done(Ok(v1::ListModelsResponse { models: self.frontend.list() }))
    }
}

// === impl Counted ===

impl Counted {
    fn new(rpc: &'static str) -> Self {
        Self { rpc, code: tonic::Code::Cancelled }
    }

    fn with(mut self, code: tonic::Code) {
        self.code = code;
    }

    fn done<T>(self, result: Result<T, Problem>) -> Result<Response<T>, Status> {
        self.with(result.as_ref().err().map_or(tonic::Code::Ok, Problem::call));
        Ok(Response::new(result?))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::request_done(self.rpc, self.code);
    }
}
