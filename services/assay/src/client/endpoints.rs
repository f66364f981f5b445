//! Where gateways are, and how one of them is reached: the list is walked in a circle.

use std::error::Error as _;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use service::net::{Network, Pings};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use super::args::EndpointArgs;

/// An endpoint as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether the scheme says TLS; `None` if there is no scheme.
    secure: Option<bool>,
    /// `host:port`.
    authority: String,
}

/// Gateways that serve the same models.
pub(super) struct Endpoints {
    /// At least one: its name for people, and how it is reached.
    list: Vec<(String, Network, String)>,
    next: usize,
}

/// A connection to one of them.
#[derive(Clone)]
pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) channel: Channel,
}

/// How long a connection may take to come about.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A gateway that is silent for twice as long is gone.
const PINGS: Pings = Pings { interval: Duration::from_secs(5), timeout: Duration::from_secs(5) };

/// What a gateway may answer with.
pub(super) const LARGEST_MESSAGE: usize = 64 << 20;

// === impl Address ===

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (secure, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(false), rest),
            Some(("https", rest)) => (Some(true), rest),
            Some((scheme, _)) => return Err(format!("expected http or https, found {scheme:?}")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let expected = || "expected http://host:port, https://host:port or host:port".to_owned();
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse::<u16>().map_err(|_| expected())?),
            None => (authority, if secure.ok_or_else(expected)? { 443 } else { 80 }),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:%".contains(&byte);
        if host.is_empty() || port == 0 || !host.bytes().all(plain) {
            return Err(expected());
        }
        Ok(Self { secure, authority: format!("{host}:{port}") })
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Reads the files of TLS.
    pub(super) fn new(args: &EndpointArgs) -> Result<Self> {
        let settings = args.tls.settings();
        let plain = args.endpoint.iter().find(|address| address.secure == Some(false));
        if let (Some(_), Some(Address { authority, .. })) = (&settings, plain) {
            anyhow::bail!("--endpoint http://{authority} is without TLS: use https://, or leave the flags of TLS out");
        }
        ensure!(!args.endpoint.is_empty(), "--endpoint names no gateway");
        let network = |address: &Address| {
            let secure = address.secure.unwrap_or(settings.is_some());
            let tls = secure.then(|| settings.clone().unwrap_or_default().load()).transpose().context("TLS")?;
            let scheme = if secure { "https" } else { "http" };
            let name = format!("{scheme}://{}", address.authority);
            Ok((name, Network::tcp(None, tls).with_pings(PINGS), address.authority.clone()))
        };
        Ok(Self { list: args.endpoint.iter().map(network).collect::<Result<_>>()?, next: 0 })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// What they are called.
    pub(super) fn names(&self) -> String {
        self.list.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Connects to the next one; says which it was if that fails.
    pub(super) async fn dial(&mut self) -> Result<Gateway, (String, Status)> {
        let (name, network, address) = &self.list[self.next % self.list.len()];
        self.next = (self.next + 1) % self.list.len();
        match network.dial(address, PATIENCE).await {
            Ok(channel) => Ok(Gateway { name: name.clone(), channel }),
            Err(error) => Err((name.clone(), Status::unavailable(innermost(&error)))),
        }
    }
}

/// What an error comes from: what tonic puts around it says nothing.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        reason = deeper.to_string();
        cause = deeper.source();
    }
    reason
}

/// A status in few words.
pub(super) fn in_words(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// When a gateway wants to be asked again.
pub(super) fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests;
