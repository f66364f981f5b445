//! A gateway that does as it is told: it answers what it likes when it likes, breaks off, and takes notes.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input;
use proto::v1::reward_service_server::{RewardService, RewardServiceServer};
use proto::v1::status_service_server::{StatusService, StatusServiceServer};
use service::Network;
use service::server::Limits;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What a fake gateway does.
#[derive(Clone)]
pub(crate) struct Behaviour {
    /// Answers so many items at a time, the last first.
    pub(crate) reversed: usize,
    /// Each stream breaks after so many answers, until there is no number left.
    pub(crate) breaks: VecDeque<usize>,
    /// The first answer to each item is that no replica could compute it.
    pub(crate) first_unavailable: bool,
    /// No item is ever computed.
    pub(crate) never_available: bool,
    /// No item of a stream is ever answered.
    pub(crate) silent: bool,
    /// Calls that find the queue full.
    pub(crate) full: u64,
    /// How long a call takes.
    pub(crate) takes: Duration,
    /// Streams are refused with this.
    pub(crate) refuses: Option<Status>,
    /// Replicas of each model that are ready.
    pub(crate) ready: u32,
    /// What is served.
    pub(crate) models: Vec<&'static str>,
    /// The largest message, if it says.
    pub(crate) largest: u64,
}

/// What a fake gateway has seen.
#[derive(Default)]
pub(crate) struct Notes {
    /// The ids of each stream, in order.
    pub(crate) streams: Vec<Vec<u64>>,
    /// The options of the first item of each stream.
    pub(crate) options: Vec<Option<v1::Options>>,
    /// Each tenant that was named.
    pub(crate) tenants: Vec<String>,
    /// The deadlines of calls.
    pub(crate) timeouts: Vec<String>,
    /// Answers that were given.
    pub(crate) answers: u64,
    refused: HashSet<u64>,
}

/// A fake gateway, on threads of its own. Dropped, its connections break.
pub(crate) struct Fake {
    pub(crate) address: String,
    notes: Arc<Mutex<Notes>>,
    _runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    behaviour: Arc<Mutex<Behaviour>>,
    notes: Arc<Mutex<Notes>>,
    status_reads: Arc<AtomicU64>,
}

/// Items that come within so long are answered together.
const TOGETHER: Duration = Duration::from_millis(100);

// === impl Behaviour ===

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            reversed: 1,
            breaks: VecDeque::new(),
            first_unavailable: false,
            never_available: false,
            silent: false,
            full: 0,
            takes: Duration::ZERO,
            refuses: None,
            ready: 1,
            models: vec!["fake"],
            largest: 0,
        }
    }
}

// === impl Fake ===

impl Fake {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0", behaviour)
    }

    pub(crate) fn start_at(address: &str, behaviour: Behaviour) -> Self {
        let runtime = Runtime::new().unwrap();
        let notes = Arc::<Mutex<Notes>>::default();
        let behaviour = Arc::new(Mutex::new(behaviour));
        let service = Service { behaviour, notes: Arc::clone(&notes), status_reads: Arc::default() };
        let network = Network::tcp(None, None);
        let listener = runtime.block_on(network.listen(address)).unwrap();
        let address = listener.address().to_owned();
        let routes =
            Routes::new(RewardServiceServer::new(service.clone())).add_service(StatusServiceServer::new(service));
        let server = network.server(Limits::default());
        runtime.spawn(server.serve(listener, routes.into_axum_router(), CancellationToken::new()));
        Self { address, notes, _runtime: Some(runtime) }
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self._runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === answers ===

/// The score of a conversation: that of its last text, which is a number.
pub(crate) fn score_of(text: &str) -> Option<f32> {
    text.parse::<f32>().ok().map(|number| number / 10.0)
}

fn result(text: &str) -> v1::Result {
    let tokens = text.len() as u32;
    let done = v1::Result { tokens, generation: 1, fingerprint: "finger".to_owned(), ..v1::Result::default() };
    match score_of(text) {
        Some(score) => {
            let status = v1::Status::Ok.into();
            v1::Result { status, score: Some(score), computed_tokens: tokens, ..done }
        }
        None => {
            let message = format!("{text:?} is no number");
            let (error, status) = (format!("item: {message}"), v1::Status::Invalid.into());
            let problem = Some(v1::Problem { message, ..v1::Problem::default() });
            v1::Result { status, error, problem, ..v1::Result::default() }
        }
    }
}

/// A turn that says more than role and content is whole in `extra`.
fn content(turn: &v1::Message) -> String {
    let extra =
        || serde_json::from_str::<serde_json::Value>(&turn.extra).unwrap()["content"].as_str().unwrap().to_owned();
    if turn.extra.is_empty() { turn.content.clone() } else { extra() }
}

fn results(item: &v1::Item) -> v1::ItemResult {
    let results = match item.input.as_ref().unwrap() {
        Input::Text(text) => vec![result(text)],
        Input::TokenIds(ids) => vec![result(&ids.ids[0].to_string())],
        Input::Messages(turns) => vec![result(&content(turns.messages.last().unwrap()))],
        Input::Group(group) => {
            assert!(matches!(&group.prompt, Some(Prompt::Messages(_) | Prompt::Text(_))));
            group.responses.iter().map(|response| result(response)).collect()
        }
    };
    v1::ItemResult { results }
}

fn timing() -> Option<v1::Timing> {
    Some(v1::Timing { queue_seconds: 0.25, compute_seconds: 0.5 })
}

fn all_with(status: v1::Status, item: &mut v1::ItemResult) {
    for result in &mut item.results {
        *result = v1::Result { status: status.into(), error: "no replica".to_owned(), ..v1::Result::default() };
    }
}

// === impl Service ===

impl Service {
    fn note<T>(&self, request: &Request<T>) {
        let metadata = |key: &str| request.metadata().get(key).map(|value| value.to_str().unwrap().to_owned());
        let mut notes = self.notes.lock().unwrap();
        notes.tenants.extend(metadata("x-assay-tenant"));
        notes.timeouts.extend(metadata("grpc-timeout"));
    }

    fn answer(&self, behaviour: &Behaviour, request: v1::ScoreStreamRequest) -> v1::ScoreStreamResponse {
        let v1::ScoreStreamRequest { id, item, .. } = request;
        let mut item = results(&item.unwrap());
        let mut notes = self.notes.lock().unwrap();
        if behaviour.never_available || behaviour.first_unavailable && notes.refused.insert(id) {
            all_with(v1::Status::Unavailable, &mut item);
        }
        notes.answers += 1;
        v1::ScoreStreamResponse { id, item: Some(item), timing: timing() }
    }

    /// Answers one stream, until it is over or to break.
    async fn run(
        self,
        mut inbound: Streaming<v1::ScoreStreamRequest>,
        answers: mpsc::Sender<Result<v1::ScoreStreamResponse, Status>>,
    ) {
        let (behaviour, left, number) = {
            let mut behaviour = self.behaviour.lock().unwrap();
            let mut notes = self.notes.lock().unwrap();
            notes.streams.push(Vec::new());
            let left = behaviour.breaks.pop_front();
            (behaviour.clone(), left, notes.streams.len() - 1)
        };
        let (mut left, mut open, mut waiting) = (left, true, Vec::new());
        while open {
            match tokio::time::timeout(TOGETHER, inbound.message()).await {
                Ok(Ok(Some(request))) => {
                    let mut notes = self.notes.lock().unwrap();
                    if notes.streams[number].is_empty() {
                        notes.options.push(request.options.clone());
                    }
                    notes.streams[number].push(request.id);
                    waiting.push(request);
                    if waiting.len() < behaviour.reversed {
                        continue;
                    }
                }
                Ok(_) => open = false,
                Err(_) => {}
            }
            if behaviour.silent {
                continue;
            }
            while let Some(request) = waiting.pop() {
                if left == Some(0) {
                    // breaks are of two kinds: with a word, and without one
                    if number % 2 == 0 {
                        let _ = answers.send(Err(Status::unavailable("about to end"))).await;
                    }
                    return;
                }
                left = left.map(|left| left - 1);
                tokio::time::sleep(behaviour.takes).await;
                if answers.send(Ok(self.answer(&behaviour, request))).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl RewardService for Service {
    type ScoreStreamStream = ReceiverStream<Result<v1::ScoreStreamResponse, Status>>;

    async fn score(&self, request: Request<v1::ScoreRequest>) -> Result<Response<v1::ScoreResponse>, Status> {
        self.note(&request);
        let behaviour = {
            let mut behaviour = self.behaviour.lock().unwrap();
            if behaviour.full > 0 {
                behaviour.full -= 1;
                let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(150)));
                return Err(Status::with_error_details(tonic::Code::ResourceExhausted, "full", details));
            }
            behaviour.clone()
        };
        tokio::time::sleep(behaviour.takes).await;
        let items = request.into_inner().items.iter().map(results).collect();
        self.notes.lock().unwrap().answers += 1;
        Ok(Response::new(v1::ScoreResponse { items, timing: timing() }))
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<v1::ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        self.note(&request);
        if let Some(status) = self.behaviour.lock().unwrap().refuses.clone() {
            return Err(status);
        }
        let (answers, outbound) = mpsc::channel(16);
        tokio::spawn(self.clone().run(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn tokenize(&self, _: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn list_models(&self, _: Request<v1::ListModelsRequest>) -> Result<Response<v1::ListModelsResponse>, Status> {
        let behaviour = self.behaviour.lock().unwrap();
        let model = |name: &&str| v1::Model {
            name: (*name).to_owned(),
            max_length: 100,
            replicas_ready: behaviour.ready,
            ..v1::Model::default()
        };
        let models = behaviour.models.iter().map(model).collect();
        Ok(Response::new(v1::ListModelsResponse { models, largest_message: behaviour.largest }))
    }
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let behaviour = self.behaviour.lock().unwrap();
        let reads = self.status_reads.fetch_add(1, Ordering::Relaxed);
        let model = |name: &&str| v1::ModelStatus {
            name: (*name).to_owned(),
            replicas_ready: behaviour.ready,
            tokens_per_second: 7.0,
            scored_tokens: 1000 * reads,
            ..v1::ModelStatus::default()
        };
        let replica = v1::ReplicaStatus {
            name: "replica-0".to_owned(),
            model: "fake".to_owned(),
            state: v1::ReplicaState::Ready.into(),
            world_size: 1,
            ranks: vec![v1::RankStatus { rank: 0, progress: v1::RankProgress::Serving.into() }],
            ..v1::ReplicaStatus::default()
        };
        let models = behaviour.models.iter().map(model).collect();
        let gateway = "fake-0".to_owned();
        Ok(Response::new(v1::GetStatusResponse { gateway, models, replicas: vec![replica] }))
    }
}
