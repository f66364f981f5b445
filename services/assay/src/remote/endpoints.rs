//! Where gateways are, as people write it.

use std::str::FromStr;

use anyhow::{Context as _, Result};
use client::Endpoint;
use service::Network;

use super::args::EndpointArgs;

/// An endpoint as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whether the scheme says TLS; `None` if there is no scheme.
    secure: Option<bool>,
    /// `host:port`.
    authority: String,
}

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

/// The gateways that are named; the files of TLS are read.
pub(crate) fn endpoints(args: &EndpointArgs) -> Result<Vec<Endpoint>> {
    let settings = args.tls.settings();
    let plain = args.endpoint.iter().find(|address| address.secure == Some(false));
    if let (Some(_), Some(Address { authority, .. })) = (&settings, plain) {
        anyhow::bail!("--endpoint http://{authority} is without TLS: use https://, or leave the flags of TLS out");
    }
    let endpoint = |address: &Address| {
        let secure = address.secure.unwrap_or(settings.is_some());
        let tls = secure.then(|| settings.clone().unwrap_or_default().load()).transpose().context("TLS")?;
        let scheme = if secure { "https" } else { "http" };
        let name = format!("{scheme}://{}", address.authority);
        Ok(Endpoint::new(name, Network::tcp(None, tls), address.authority.clone()))
    };
    args.endpoint.iter().map(endpoint).collect()
}

#[cfg(test)]
mod tests;
