//! A gateway with fake replicas, and a client of it.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use discovery::Memory;
use prompt::{Encoder, Sources};
use proto::v1;
use proto::v1::item::Input;
use proto::v1::reward_service_client::RewardServiceClient;
use service::Network;
use service::axum::Router;
use service::server::Limits as ServerLimits;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::fake::{DIGEST, Fake, VOCAB};
use crate::core::Routing;
use crate::{Ended, Gateway, Observer, ServeError, ServedModel, ServiceLimits, ServiceOptions};

pub(super) const LONGEST: usize = 512;

pub(super) struct Cluster {
    pub(super) memory: Memory,
    pub(super) network: Network,
    pub(super) observer: Observer,
    pub(super) page: Router,
    pub(super) client: RewardServiceClient<Channel>,
    pub(super) channel: Channel,
    pub(super) shutdown: CancellationToken,
    pub(super) serving: JoinHandle<Result<Ended, ServeError>>,
}

pub(super) fn golden(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma2-v4");
    std::fs::read(folder.join(file)).unwrap()
}

pub(super) fn encoder() -> Encoder {
    let (tokenizer, tokenizer_config) = (golden("tokenizer.json"), Some(golden("tokenizer_config.json")));
    Encoder::new(&Sources { tokenizer, tokenizer_config, vocab_size: Some(VOCAB), ..Sources::default() }).unwrap()
}

pub(super) fn model(name: &str) -> ServedModel {
    let (name, text_digest) = (name.to_owned(), DIGEST.to_owned());
    ServedModel { name, encoder: encoder(), max_length: LONGEST, vocab: VOCAB, text_digest }
}

pub(super) fn limits() -> ServiceLimits {
    ServiceLimits {
        queue_tokens: 100_000,
        queue_conversations: 1_000,
        timeout: Duration::from_secs(20),
        tokenizer_threads: NonZeroUsize::MIN,
        ..ServiceLimits::default()
    }
}

pub(super) fn options() -> ServiceOptions {
    let routing = Routing {
        attempts: 3,
        stalled_after: Duration::from_secs(20),
        failures: 100,
        pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(10),
        prompts: 10,
    };
    ServiceOptions { limits: limits(), routing, ..ServiceOptions::new(vec![model("m")]) }
}

// === impl Cluster ===

impl Cluster {
    /// A gateway, and replicas with these names that serve.
    pub(super) async fn start(replicas: &[&str]) -> (Self, Vec<Fake>) {
        Self::with(options(), replicas).await
    }

    pub(super) async fn with(options: ServiceOptions, replicas: &[&str]) -> (Self, Vec<Fake>) {
        let (memory, network) = (Memory::new(), Network::memory());
        let gateway = Gateway::start(options, memory.registry(), network.clone()).unwrap();
        let (observer, page) = (gateway.observer(), gateway.routes(Default::default(), "gateway").unwrap());
        let listener = network.listen("gateway").await.unwrap();
        let (server, shutdown) = (network.server(ServerLimits::default()), CancellationToken::new());
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move { gateway.serve(server, Default::default(), listener, stop).await });
        let channel = network.dial("gateway", Duration::from_secs(1)).await.unwrap();
        let client = RewardServiceClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
        let cluster = Self { memory, network, observer, page, client, channel, shutdown, serving };
        let mut fakes = Vec::new();
        for name in replicas {
            let mut fake = cluster.fake(name).await;
            fake.announce().await;
            fakes.push(fake);
        }
        cluster.until(|_, ready| ready as usize == replicas.len()).await;
        (cluster, fakes)
    }

    /// A replica without a record.
    pub(super) async fn fake(&self, name: &str) -> Fake {
        Fake::start(name, &self.memory.registry(), &self.network).await
    }

    /// Waits until the replicas, and the number of those that take work, are like this.
    #[track_caller]
    pub(super) fn until(&self, like_this: impl Fn(&[v1::ReplicaStatus], u32) -> bool) -> impl Future<Output = ()> {
        let observer = self.observer.clone();
        let place = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            loop {
                let status = observer.status().await;
                let ready = status.models.iter().map(|model| model.replicas_ready).sum();
                if like_this(&status.replicas, ready) {
                    return;
                }
                assert!(start.elapsed() < Duration::from_secs(10), "{place}: {status:#?}");
                sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Waits until a replica is this to the gateway.
    #[track_caller]
    pub(super) fn until_state(&self, name: &'static str, state: v1::ReplicaState) -> impl Future<Output = ()> {
        self.until(move |replicas, _| replicas.iter().any(|it| it.name == name && it.state() == state))
    }

    /// Waits until a replica is refused, or lost, for a reason that begins like this.
    #[track_caller]
    pub(super) fn until_reason(&self, name: &'static str, reason: &'static str) -> impl Future<Output = ()> {
        let so =
            move |it: &v1::ReplicaStatus| it.name == name && !it.reason.is_empty() && it.reason.starts_with(reason);
        self.until(move |replicas, _| replicas.iter().any(so))
    }

    /// Conversations that are not answered.
    pub(super) async fn held(&self) -> u64 {
        self.observer.status().await.models[0].conversations
    }

    /// Waits until so many conversations are not answered.
    pub(super) async fn until_held(&self, conversations: u64) {
        let start = Instant::now();
        while self.held().await != conversations {
            assert!(start.elapsed() < Duration::from_secs(10), "{} are held", self.held().await);
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) async fn score(&self, items: Vec<v1::Item>) -> Result<Vec<v1::Result>, tonic::Status> {
        let response = self.client.clone().score(v1::ScoreRequest { items, options: None }).await?;
        Ok(response.into_inner().items.into_iter().flat_map(|item| item.results).collect())
    }

    /// The one result of a conversation that fails.
    #[track_caller]
    pub(super) fn fails(&self, timeout: Duration) -> impl Future<Output = (v1::Status, String)> {
        let mut client = self.client.clone();
        async move {
            let mut request = tonic::Request::new(v1::ScoreRequest { items: vec![text("a b")], options: None });
            request.set_timeout(timeout);
            let response = client.score(request).await.unwrap().into_inner();
            let result = &response.items[0].results[0];
            assert_eq!(result.score, None);
            (result.status(), result.error.clone())
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub(super) fn until(mut so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        while !so() {
            assert!(start.elapsed() < Duration::from_secs(10), "{place}: never");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[track_caller]
pub(super) fn code<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

// === what is asked ===

pub(super) fn item(input: Input) -> v1::Item {
    v1::Item { input: Some(input) }
}

pub(super) fn text(text: &str) -> v1::Item {
    item(Input::Text(text.to_owned()))
}

pub(super) fn ids(ids: &[u32]) -> v1::Item {
    item(Input::TokenIds(v1::TokenIds { ids: ids.to_vec() }))
}

pub(super) fn turns(turns: &[(&str, &str)]) -> v1::Messages {
    let message = |(role, content): &(&str, &str)| {
        let (role, content) = ((*role).to_owned(), (*content).to_owned());
        v1::Message { role, content, ..v1::Message::default() }
    };
    v1::Messages { messages: turns.iter().map(message).collect() }
}

pub(super) fn conversation(prompt: &str, response: &str) -> v1::Item {
    item(Input::Messages(turns(&[("user", prompt), ("assistant", response)])))
}

pub(super) fn group(prompt: &str, responses: &[&str]) -> v1::Item {
    let prompt = Some(v1::group::Prompt::Text(prompt.to_owned()));
    item(Input::Group(v1::Group { prompt, responses: responses.iter().map(|it| (*it).to_owned()).collect() }))
}
