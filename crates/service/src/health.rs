//! Says over gRPC and to the HTTP port whether the process lives and whether it is ready.
//!
//! The service is `grpc.health.v1`. It knows three names: `liveness` is served as long as the process answers,
//! `readiness` and the empty name only while it is ready.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Whether a process is ready. Clones are handles of the same state; it begins unready.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// Why it is not ready. Held while the reporter is told, so that both ways of asking agree.
    unready: Arc<Mutex<Option<String>>>,
}

/// The names that follow [`Health::set_ready`].
const READINESS: [&str; 2] = ["", "readiness"];
const LIVENESS: &str = "liveness";

// === impl Health ===

impl Health {
    /// The health of a process that is starting.
    pub async fn new() -> Self {
        let health = Self { reporter: HealthReporter::new(), unready: Arc::default() };
        health.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        health.set_unready("starting").await;
        health
    }

    /// The service, to be added to a server.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Says that the process is ready for requests, or that it is not.
    pub async fn set_ready(&self, ready: bool) {
        self.set(if ready { None } else { Some("not ready".to_owned()) }).await;
    }

    /// Says that the process is not ready, and why in a few words, such as `draining`.
    pub async fn set_unready(&self, reason: &str) {
        self.set(Some(reason.to_owned())).await;
    }

    /// Why the process is not ready; None if it is.
    pub async fn unready(&self) -> Option<String> {
        self.unready.lock().await.clone()
    }

    async fn set(&self, unready: Option<String>) {
        let mut held = self.unready.lock().await;
        let status = if unready.is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in READINESS {
            self.reporter.set_service_status(name, status).await;
        }
        *held = unready;
    }
}

#[cfg(test)]
mod tests;
