//! A gateway: started once, to know its replicas; then serving clients, until it is told to end.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use discovery::Registry;
use service::Network;
use service::axum::Router;
use service::axum::http::HeaderName;
use service::config::Unusable;
use service::net::Listener;
use service::server::{Intake, Server};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

use crate::core::{Gateway as Core, Limits, Settings, Terms};
use crate::entrance::{Entrance, Model, Names};
use crate::grpc;
use crate::http::{self, Door, Hosts};
use crate::observer::Observer;
use crate::options::{STEP_TOKENS, ServedModel, ServiceLimits, ServiceOptions, TENANT_KEY};
use crate::replicas::{self, Dialer};
use crate::runner::Runner;
use crate::tokenizers::Tokenizers;

/// A gateway that knows its replicas. It ends, and lets go of them, when it is dropped.
pub struct Gateway {
    entrance: Arc<Entrance>,
    observer: Observer,
    limits: ServiceLimits,
    hosts: Vec<String>,
    _stop: DropGuard,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option cannot work.
    #[error(transparent)]
    Option(#[from] Unusable),
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
    /// Reflection does not know its own protocol.
    #[error(transparent)]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// How serving came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was accepted is finished.
    Finished,
    /// Some of it was not finished in time.
    GaveUp,
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
        let ServiceOptions { limits, routing, .. } = options;
        limits.check()?;
        routing.check()?;
        let stop = CancellationToken::new();
        let (tenants, name) = (Arc::new(options.tenants), Arc::<str>::from(options.name));
        let tokenizers = Tokenizers::new(limits.tokenizer_threads.get())?;
        let mut models = BTreeMap::new();
        let cache = limits.prompt_cache / options.models.len().max(1);
        for served in options.models {
            let ServedModel { name: called, encoder, max_length, vocab, text_digest } = served;
            if called.is_empty() || max_length == 0 {
                return Err(StartError::Model(called));
            }
            let (tokens, conversations, longest) = (limits.queue_tokens, limits.queue_conversations, max_length as u64);
            let held = Limits { tokens, conversations, longest };
            let settings = Settings { limits: held, routing, step_tokens: STEP_TOKENS };
            let (gateway, model, protocol) = (Arc::clone(&name), Arc::<str>::from(called.as_str()), options.protocol);
            let core = Core::new(settings, Terms { gateway, model: Arc::clone(&model), vocab, longest, protocol });
            let (gateway, network) = (Arc::clone(&name), network.clone());
            let dialer = Dialer { gateway, protocol, text_digest, network };
            let (runner, handle) = Runner::new(model, core, Arc::clone(&tenants), dialer);
            tokio::spawn(stop.clone().run_until_cancelled_owned(runner.run()));
            let encoder = encoder.with_cache(cache);
            let model = Arc::new(Model { name: called.clone(), encoder, max_length, runner: handle });
            if models.insert(called.clone(), model).is_some() {
                return Err(StartError::SameName(called));
            }
        }
        if models.is_empty() {
            return Err(StartError::NoModels);
        }
        let watchers = models.iter().map(|(name, model)| (name.clone(), (model.runner.watcher(), model.max_length)));
        let observer = Observer::new(&name, watchers.collect());
        if options.protocol.contains(1) {
            tracing::info!("replicas of protocol 1 are accepted; with refuse_protocol_1 they are not");
        }
        let followers = models.values().map(|model| model.runner.clone()).collect();
        tokio::spawn(replicas::follow(registry, followers, stop.clone()));
        let entrance = Entrance {
            models,
            tokenizers,
            tenants,
            default_timeout: limits.timeout,
            stream_items: limits.stream_items.get(),
            largest: limits.message,
            names: Names::default(),
            lanes: AtomicU64::new(0),
            ending: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        Ok(Self { entrance: Arc::new(entrance), observer, limits, hosts: options.hosts, _stop: stop.drop_guard() })
    }

    /// The window to it.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// What it holds of clients' messages.
    fn intake(&self) -> Intake {
        Intake {
            message: self.limits.message,
            setting: "limits.message",
            held: self.limits.queue_bytes,
            tenant: Some(HeaderName::from_static(TENANT_KEY)),
            weigh: proto::weight,
        }
    }

    /// All that it answers, and `others` beside: gRPC, dialects of HTTP and the page. Where it listens says which names of
    /// it are known.
    ///
    /// # Errors
    /// If reflection does not know its own protocol.
    pub(crate) fn routes(&self, others: Routes, listens: &str) -> Result<Router, ServeError> {
        let (entrance, observer, largest) = (Arc::clone(&self.entrance), self.observer(), self.limits.message);
        let door = Door { entrance: Arc::clone(&entrance), observer: observer.clone(), largest };
        let routes = grpc::routes(entrance, observer, others, largest)?.into_axum_router();
        Ok(routes.fallback(http::nothing).merge(http::routes(door, Hosts::new(&self.hosts, listens))))
    }

    /// Serves clients beside `others` (health, say) until `shutdown`, once. After some time as a lame duck it accepts
    /// nothing more, finishes what it has accepted as long as the drain timeout allows, and ends; says how.
    ///
    /// # Errors
    /// If reflection does not know its own protocol.
    pub async fn serve(
        &self,
        server: Server,
        others: Routes,
        listener: Listener,
        shutdown: CancellationToken,
    ) -> Result<Ended, ServeError> {
        let Entrance { ending, ended, .. } = &*self.entrance;
        let routes = self.routes(others, listener.address())?;
        let server = server.with_intake(self.intake());
        let mut serving = pin!(server.serve(listener, routes, ending.clone()));
        let late = async {
            shutdown.cancelled().await;
            sleep(self.limits.lame_duck).await;
            ending.cancel();
            sleep(self.limits.drain).await;
        };
        tokio::select! {
            () = &mut serving => return Ok(Ended::Finished),
            () = late => tracing::warn!("what was accepted is not finished in time, and is given up"),
        }
        ended.cancel();
        // whoever does not read what it is told is not waited for
        let _ = timeout(LAST_WORDS, serving).await;
        Ok(Ended::GaveUp)
    }
}
