//! What the health service says before, while and after a process is ready.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;

use crate::testing::{check, serve};
use crate::{Health, Network};

#[tokio::test]
async fn readiness_comes_and_goes_and_liveness_stays() {
    let network = Network::memory();
    let health = Health::new().await;
    let listener = network.listen("health").await.unwrap();
    let _shutdown = serve(&network, listener, &health);
    let channel = network.dial("health", Duration::from_secs(5)).await.unwrap();
    let request = HealthCheckRequest { service: "readiness".to_owned() };
    let mut watch = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    let mut reasons = Vec::new();
    for (step, expected) in [NotServing, Serving, NotServing, Serving, NotServing].into_iter().enumerate() {
        match step {
            0 => {}
            4 => health.set_unready("draining").await,
            _ => health.set_ready(expected == Serving).await,
        }
        reasons.push(health.unready().await);
        assert_eq!(check(&channel, "liveness").await.unwrap(), Serving);
        assert_eq!(check(&channel, "readiness").await.unwrap(), expected);
        assert_eq!(check(&channel, "").await.unwrap(), expected);
        assert_eq!(watch.next().await.unwrap().unwrap().status(), expected);
    }
    assert_eq!(
        reasons,
        [Some("starting"), None, Some("not ready"), None, Some("draining")].map(|r| r.map(str::to_owned))
    );
    assert_eq!(check(&channel, "else").await.unwrap_err().code(), Code::NotFound);
}
