//! How to reach an etcd cluster, checked before anything is sent.

use std::fmt;
use std::time::Duration;

use etcd_client::{ConnectOptions, TlsOptions};

use crate::{Error, Key};

/// How to reach etcd, and how patient to be.
#[derive(Clone)]
pub struct EtcdOptions {
    /// The nodes, as `http://host:port` or `https://host:port`; a call that fails goes to the next.
    pub endpoints: Vec<String>,
    /// The path that all keys lie below, so that several clusters can share one etcd.
    pub namespace: String,
    /// Who to log in as, where etcd asks for it.
    pub credentials: Option<Credentials>,
    /// Whom to trust, and how to prove who we are; for `https` endpoints.
    pub tls: Option<TlsOptions>,
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
            options = options.with_tls(tls.clone());
        }
        options
    }
}

impl fmt::Debug for EtcdOptions {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, namespace, .. } = self;
        f.debug_struct("EtcdOptions")
            .field("endpoints", endpoints)
            .field("namespace", namespace)
            .finish_non_exhaustive()
    }
}
