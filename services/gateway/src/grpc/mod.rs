//! gRPC: the services of `assay.v1` over the [`Entrance`].

mod convert;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use proto::v1::reward_service_server::{RewardService, RewardServiceServer};
use proto::v1::status_service_server::StatusServiceServer;
use service::axum::http::HeaderMap;
use service::trace::STAGE;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::entrance::{Caller, Counted, Entrance, Given, Model, Reading};
use crate::observer::Observer;
use crate::problem::Problem;

/// Serves clients.
#[derive(Clone)]
struct Rewards(Arc<Entrance>);

/// How long the client waits.
const TIMEOUT: &str = "grpc-timeout";

/// The services, beside others; messages of clients have so many bytes at most.
///
/// # Errors
/// If reflection does not know its own protocol.
pub(crate) fn routes(
    entrance: Arc<Entrance>,
    observer: Observer,
    others: Routes,
    largest: usize,
) -> Result<Routes, tonic_reflection::server::Error> {
    let rewards = RewardServiceServer::new(Rewards(entrance))
        .max_decoding_message_size(largest)
        .max_encoding_message_size(usize::MAX);
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(proto::DESCRIPTORS);
    let routes = others.add_service(rewards).add_service(StatusServiceServer::new(observer));
    Ok(routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?))
}

// === impl Rewards ===

impl Rewards {
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Problem> {
        let headers = request.metadata().as_ref();
        self.0.caller(headers, timeout(headers)?)
    }

    fn reading(&self, options: Option<&v1::Options>) -> Result<Reading, Problem> {
        let default = v1::Options::default();
        let options = options.unwrap_or(&default);
        let reading = convert::options(options).and_then(|read| self.0.reading(&options.model, read));
        reading.map_err(|problem| if problem.path.is_empty() { problem } else { problem.within("options") })
    }

    async fn score_items(&self, request: Request<v1::ScoreRequest>) -> Result<v1::ScoreResponse, Problem> {
        let caller = self.caller(&request)?;
        let v1::ScoreRequest { items, options } = request.into_inner();
        let reading = self.reading(options.as_ref())?;
        let given = read(&caller, items)?;
        let scored = self.0.score(&caller, &reading, given, self.0.turn(false)).await?;
        let items = (0..).zip(scored.answers).map(|(number, answers)| convert::result(&item(number), answers));
        Ok(v1::ScoreResponse { items: items.collect(), timing: Some(scored.times.into()) })
    }

    async fn tokenize_items(&self, request: Request<v1::TokenizeRequest>) -> Result<v1::TokenizeResponse, Problem> {
        let caller = self.caller(&request)?;
        let v1::TokenizeRequest { items, options } = request.into_inner();
        let reading = self.reading(options.as_ref())?;
        let given = read(&caller, items)?;
        let shown = self.0.tokenize(&caller, &reading, given).await?;
        let items = (0..).zip(shown).map(|(number, shown)| convert::tokenized(&item(number), shown));
        Ok(v1::TokenizeResponse { items: items.collect() })
    }
}

/// What an item of a request is called.
fn item(number: usize) -> String {
    format!("items[{number}]")
}

/// Reads the items of one request.
fn read(caller: &Caller, items: Vec<v1::Item>) -> Result<Vec<Given>, Problem> {
    if items.is_empty() {
        return Err(Problem::bad_request("items", "there are none"));
    }
    let _call = caller.span.enter();
    let _receive = tracing::debug_span!(target: STAGE, "receive", items = items.len()).entered();
    Given::check_room(items.iter().map(v1::Item::conversations).fold(0, usize::saturating_add))?;
    Ok(items.into_iter().map(convert::given).collect())
}

/// Up to eight digits and a unit, as gRPC has it.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let parse = || {
        let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(count * 3600)),
            "M" => Some(Duration::from_secs(count * 60)),
            "S" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_millis(count)),
            "u" => Some(Duration::from_micros(count)),
            "n" => Some(Duration::from_nanos(count)),
            _ => None,
        }
    };
    parse().map(Some).ok_or_else(|| Problem::bad_request(TIMEOUT, "expected up to 8 digits and one of HMSmun"))
}

#[tonic::async_trait]
impl RewardService for Rewards {
    type ScoreStreamStream = ReceiverStream<Result<v1::ScoreStreamResponse, Status>>;

    async fn score(&self, request: Request<v1::ScoreRequest>) -> Result<Response<v1::ScoreResponse>, Status> {
        Ok(Response::new(self.0.call("Score", self.score_items(request)).await?))
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<v1::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        let counted = Counted::new("ScoreStream");
        let caller = match self.0.ending.is_cancelled() {
            true => Err(Problem::ending()),
            false => self.caller(&request),
        };
        match caller {
            Ok(caller) => Ok(Response::new(stream::start(self.clone(), caller, request, counted))),
            Err(problem) => {
                counted.with(problem.call());
                Err(problem.into())
            }
        }
    }

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        Ok(Response::new(self.0.call("Tokenize", self.tokenize_items(request)).await?))
    }

    async fn list_models(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.0.models.values().map(|model| listed(model)).collect();
        Counted::new("ListModels").with(tonic::Code::Ok);
        Ok(Response::new(v1::ListModelsResponse { models, largest_message: self.0.largest as u64 }))
    }
}

fn listed(model: &Model) -> v1::Model {
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
}

#[cfg(test)]
mod tests;
