//! What settings leave open to strangers. Whoever can write to etcd, or be a worker of a replica, decides what the scores
//! are; a start says so, and goes on.

use service::net::is_loopback;

use super::{RegistrySettings, ShardSettings};

// === impl RegistrySettings ===

impl RegistrySettings {
    /// Why strangers may write to etcd, as far as it is not this machine's alone.
    pub(crate) fn exposure(&self) -> Option<String> {
        let host = |endpoint: &str| endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).to_owned();
        let mut abroad = self.endpoints.iter().filter(|endpoint| !is_loopback(&host(endpoint)));
        let endpoint = abroad.find(|endpoint| !endpoint.starts_with("https://") || !self.is_known());
        endpoint.map(|endpoint| {
            format!(
                "etcd at {endpoint} asks nobody who they are, and who can write to it decides what the scores are: give \
                 https endpoints, and a user or a certificate, under [registry] (docs/cluster.md)"
            )
        })
    }

    /// Whether this process says who it is.
    fn is_known(&self) -> bool {
        self.user.is_some() || self.tls.as_ref().is_some_and(|tls| tls.certificate.is_some())
    }
}

// === impl ShardSettings ===

impl ShardSettings {
    /// Why strangers may be gateways, or workers of the replica.
    pub(crate) fn exposure(&self) -> Option<String> {
        let closed = self.tls.server.as_ref().is_some_and(|server| server.client_ca.is_some());
        (!closed && !is_loopback(&self.listen)).then(|| {
            format!(
                "whoever reaches {} may score here, or be a worker of the replica if etcd lets them: give [tls.server] with \
                 client_ca (docs/cluster.md)",
                self.listen
            )
        })
    }
}
