//! A gateway: started once, to know its replicas; then serving clients, until it is told to end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use discovery::Registry;
use proto::v1::reward_service_server::RewardServiceServer;
use proto::v1::status_service_server::StatusServiceServer;
use service::Network;
use service::net::Listener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::core::{Gateway as Core, Settings};
use crate::frontend::{Frontend, Model, Rewards};
use crate::observer::{Observer, Roster};
use crate::options::{ServedModel, ServiceOptions};
use crate::page::Page;
use crate::replicas::{self, Setting};
use crate::runner::Runner;
use crate::tokenizers::Tokenizers;

/// A gateway that knows its replicas. It ends, and lets go of them, when it is dropped.
pub struct Gateway {
    frontend: Arc<Frontend>,
    observer: Observer,
    max_message_bytes: usize,
    drain_timeout: Duration,
    /// Nothing new is accepted.
    ending: CancellationToken,
    /// What was accepted is given up.
    ended: CancellationToken,
    /// Calls of the page that are not answered.
    calls: TaskTracker,
    _stop: DropGuard,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to serve.
    #[error("no model is served")]
    NoModels,
    /// Two models have the same name.
    #[error("two models are called {0:?}")]
    SameName(String),
    /// A model has no name, or takes no tokens.
    #[error("the model {0:?} has no name, or takes no tokens")]
    Model(String),
    /// The threads that tokenize did not start.
    #[error("the threads that tokenize did not start: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// Reflection does not know its own protocol.
    #[error(transparent)]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// How long connections may take to close after everything on them was answered or given up.
const LAST_WORDS: Duration = Duration::from_secs(1);

// === impl Gateway ===

impl Gateway {
    /// Starts to follow the replicas of these models.
    ///
    /// # Errors
    /// If the options cannot work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(options: ServiceOptions, registry: Registry, network: Network) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let (roster, tenants) = (Roster::default(), Arc::new(options.tenants));
        let tokenizers = Tokenizers::new(options.tokenizer_threads)?;
        let (mut models, mut followed) = (BTreeMap::new(), HashMap::new());
        let cache = options.prompt_cache_bytes / options.models.len().max(1);
        for served in options.models {
            let ServedModel { name, encoder, max_length, vocab, text_digest } = served;
            if name.is_empty() || max_length == 0 {
                return Err(StartError::Model(name));
            }
            let mut settings: Settings = options.settings;
            settings.limits.longest = max_length as u64;
            let (runner, handle) = Runner::new(name.as_str().into(), Core::new(settings), Arc::clone(&tenants));
            tokio::spawn(runner.run());
            let text_digest = text_digest.into();
            let runner = handle.clone();
            followed.insert(name.clone(), replicas::Model { runner, text_digest, vocab, max_length });
            let encoder = encoder.with_cache(cache);
            let model = Arc::new(Model { name: name.clone(), encoder, max_length, runner: handle });
            if models.insert(name.clone(), model).is_some() {
                return Err(StartError::SameName(name));
            }
        }
        if models.is_empty() {
            return Err(StartError::NoModels);
        }
        let watchers = models.iter().map(|(name, model)| (name.clone(), (model.runner.watcher(), model.max_length)));
        let observer = Observer::new(&options.name, watchers.collect(), roster.clone());
        let setting = Setting {
            name: options.name,
            protocol: options.protocol,
            models: followed,
            network,
            roster: roster.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(replicas::follow(registry, Arc::new(setting)));
        let frontend = Frontend {
            models,
            tokenizers,
            tenants,
            roster,
            default_timeout: options.default_timeout,
            stream_items: options.stream_items.max(1),
            lanes: AtomicU64::new(0),
        };
        Ok(Self {
            frontend: Arc::new(frontend),
            observer,
            max_message_bytes: options.max_message_bytes,
            drain_timeout: options.drain_timeout,
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
            calls: TaskTracker::new(),
            _stop: stop.drop_guard(),
        })
    }

    /// The window to it.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// What there is to see on an HTTP port: a page, and what it is made of. It scores until the gateway is told to end,
    /// and shows how that goes.
    pub fn page(&self) -> service::axum::Router {
        let page = Page {
            observer: self.observer(),
            frontend: Arc::downgrade(&self.frontend),
            ending: self.ending.clone(),
            ended: self.ended.clone(),
            calls: self.calls.clone(),
            max_message_bytes: self.max_message_bytes,
        };
        page.router()
    }

    /// Serves clients beside `others` (health, say) until `shutdown`, once. Then it accepts nothing more, finishes what it
    /// has accepted as long as the drain timeout allows, and ends.
    ///
    /// # Errors
    /// If the transport fails.
    pub async fn serve(
        &self,
        mut server: Server,
        others: Routes,
        incoming: Listener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let frontend = Arc::clone(&self.frontend);
        let rewards = Rewards { frontend, ending: self.ending.clone(), ended: self.ended.clone() };
        let rewards = RewardServiceServer::new(rewards)
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        let reflection =
            || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(proto::DESCRIPTORS);
        let routes = others
            .add_service(rewards)
            .add_service(StatusServiceServer::new(self.observer()))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let signal = self.ending.clone().cancelled_owned();
        let mut serving = Box::pin(async {
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, signal).await?;
            self.calls.close();
            self.calls.wait().await;
            Ok::<_, ServeError>(())
        });
        let late = async {
            shutdown.cancelled().await;
            self.ending.cancel();
            sleep(self.drain_timeout).await;
        };
        tokio::select! {
            served = &mut serving => return served,
            () = late => tracing::warn!("what was accepted is not finished in time, and is given up"),
        }
        self.ended.cancel();
        timeout(LAST_WORDS, serving).await.unwrap_or(Ok(()))
    }
}
