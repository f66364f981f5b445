//! How to reach an etcd cluster, checked before anything is sent.

use std::fmt;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, TlsOptions};

use crate::{Error, Key};

/// How to reach etcd, and how patient to be.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The nodes, as `http://host:port` or `https://host:port`; a call that fails goes to the next.
    pub endpoints: Vec<String>,
    /// The path that all keys lie below, so that several clusters can share one etcd.
    pub namespace: String,
    /// Who to log in as, where etcd asks for it.
    pub credentials: Option<Credentials>,
    /// For `https` endpoints.
    pub tls: Option<Tls>,
    /// How long a claim outlives its holder; in whole seconds, and etcd has a minimum of its own.
    pub lease: Duration,
    /// How long a node may take to answer; a watch that hears nothing for twice as long goes to another.
    pub attempt: Duration,
    /// How long a call is tried again before it fails.
    pub deadline: Duration,
}

/// A user of etcd.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// What to trust and how to identify; all in PEM.
#[derive(Clone)]
pub struct Tls {
    /// The certificates of the authorities that sign for etcd's nodes.
    pub ca: Vec<u8>,
    /// For mutual TLS.
    pub identity: Option<Identity>,
    /// The name that the nodes' certificates are for, where it is not the host of the endpoint.
    pub domain: Option<String>,
}

/// A client's certificate and private key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, with its chain.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

// === impl EtcdOptions ===

impl EtcdOptions {
    /// Options for these endpoints, with the namespace `assay`, leases of 10 s, attempts of 2 s and calls of 15 s.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            namespace: "assay".to_owned(),
            credentials: None,
            tls: None,
            lease: Duration::from_secs(10),
            attempt: Duration::from_secs(2),
            deadline: Duration::from_secs(15),
        }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Error::Option`] or [`Error::Key`], with the option.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.to_owned() });
        Key::new(&*self.namespace)?;
        if self.endpoints.is_empty() {
            return refuse("endpoints", "there are none");
        }
        for endpoint in &self.endpoints {
            let host = endpoint.strip_prefix(if self.tls.is_some() { "https://" } else { "http://" });
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                let reason = match self.tls {
                    Some(_) => format!("{endpoint:?} is not of the form https://host:port"),
                    None => format!("{endpoint:?} is not of the form http://host:port (https needs tls options)"),
                };
                return refuse("endpoints", &reason);
            }
        }
        if let Some(tls) = &self.tls {
            let identity = tls.identity.as_ref().map(|identity| (&identity.certificate, &identity.key));
            let (certificate, key) = identity.unzip();
            for (option, pem, label) in [
                ("tls.ca", Some(&tls.ca), "CERTIFICATE-----"),
                ("tls.identity.certificate", certificate, "CERTIFICATE-----"),
                ("tls.identity.key", key, "PRIVATE KEY-----"),
            ] {
                let found = |pem: &Vec<u8>| pem.windows(label.len()).any(|window| window == label.as_bytes());
                if !pem.is_none_or(found) {
                    return refuse(option, "there is none in it: it is to be PEM");
                }
            }
        }
        if self.lease < Duration::from_secs(1) || self.lease.subsec_nanos() != 0 {
            return refuse("lease", "etcd counts leases in whole seconds, from 1 on");
        }
        if self.attempt.is_zero() || self.attempt > self.lease / 3 {
            return refuse("attempt", "more than 0, and at most a third of the lease");
        }
        if self.deadline < self.attempt {
            return refuse("deadline", "at least as long as an attempt");
        }
        Ok(())
    }

    pub(crate) fn connect(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new().with_require_leader(true).with_connect_timeout(self.attempt);
        if let Some(credentials) = &self.credentials {
            options = options.with_user(&credentials.user, &credentials.password);
        }
        if let Some(tls) = &self.tls {
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some(identity) = &tls.identity {
                config = config.identity(etcd_client::Identity::from_pem(&identity.certificate, &identity.key));
            }
            if let Some(domain) = &tls.domain {
                config = config.domain_name(domain);
            }
            options = options.with_tls(config);
        }
        options
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mutual = self.identity.is_some();
        f.debug_struct("Tls").field("mutual", &mutual).field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}
