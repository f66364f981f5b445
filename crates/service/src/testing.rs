//! What several tests need: an authority with its certificates on disk, and a server to call.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::metrics::Metric;
use crate::net::Listener;
use crate::server::Limits;
use crate::{Health, Metrics, Network, Shutdown};

/// An authority, and a folder for what it signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder: TempDir::new().unwrap() }
    }

    /// The authority's own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    /// A certificate for a host, and its key.
    pub(crate) fn sign(&self, host: &str) -> (PathBuf, PathBuf) {
        self.sign_until(host, 4000)
    }

    /// The same, for a certificate that ends when that year begins.
    pub(crate) fn sign_until(&self, host: &str, year: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let certificate = self.write(&format!("{host}.pem"), &certificate.pem());
        (certificate, self.write(&format!("{host}.key"), &key.serialize_pem()))
    }

    /// A file beside the others.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// Serves health at a listener until the shutdown that it returns begins or is dropped with the test.
pub(crate) fn serve(network: &Network, listener: Listener, health: &Health) -> Shutdown {
    let shutdown = Shutdown::new();
    let routes = Routes::new(health.service()).into_axum_router();
    tokio::spawn(network.server(Limits::default()).serve(listener, routes, shutdown.token()));
    shutdown
}

/// What the health service says of a name.
pub(crate) async fn check(channel: &Channel, name: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: name.to_owned() };
    HealthClient::new(channel.clone()).check(request).await.map(|response| response.into_inner().status())
}

/// The metrics of the tests of this process: the first call of all decides which they are.
pub(crate) fn metrics() -> Metrics {
    Metrics::install(&[Metric::counter("metrics_tests_total", "Of these tests")]).unwrap()
}
