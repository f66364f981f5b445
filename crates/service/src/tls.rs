//! TLS from settings: the paths of PEM files become what a server or a client presents and trusts.
//!
//! Everything is read and tried when it is loaded, so that a process with a wrong file ends before it listens, also with a
//! certificate of its own that has expired. What is loaded stays as it is: a certificate that was replaced on disk counts
//! from the next start on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use x509_cert::der::Decode as _;

/// How a server proves who it is, and whether it asks the same of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// A PEM file with the server's certificate, followed by those that lead to the authority.
    pub certificate: PathBuf,
    /// A PEM file with the certificate's private key, not encrypted.
    pub key: PathBuf,
    /// A PEM file with authorities. If given, a client without a certificate of one of them is turned away.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Whom a client trusts, and how it proves who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTls {
    /// A PEM file with authorities; those that the system trusts if not given.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's certificate, for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key, not encrypted.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must carry; the host of the address if not given.
    pub domain: Option<String>,
}

/// What is wrong with the settings of TLS, or with a file that they name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: there is no {expected} in it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A file is damaged.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate goes with a key.
    #[error("{}: a client that presents a certificate needs its key as well: `{missing}` is not set", path.display())]
    Half {
        /// The file that is given.
        path: PathBuf,
        /// The setting that is not.
        missing: &'static str,
    },
    /// The files hold what they should, and it cannot be used.
    #[error("{what}: {reason}")]
    Unusable {
        /// The file or setting.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads the files. Clients may speak HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// [`Error`], with the name of the file.
    pub fn load(&self) -> Result<Arc<ServerConfig>, Error> {
        let ((_, chain), (_, key)) = (own_certificates(&self.certificate)?, private_key(&self.key)?);
        let blame = |path: &Path, error: &dyn std::error::Error| unusable(path.display().to_string(), error);
        let builder = match &self.client_ca {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path)?.1);
                let verifier = WebPkiClientVerifier::builder(roots.into()).build();
                ServerConfig::builder().with_client_cert_verifier(verifier.map_err(|error| blame(path, &error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| blame(&self.certificate, &error))?;
        config.alpn_protocols = ["h2", "http/1.1"].map(Vec::from).to_vec();
        Ok(config.into())
    }
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error`], with the name of the file.
    pub fn load(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = match &self.ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates(path)?.0)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => config.identity(identity(certificate, key)?),
            (Some(path), None) => return Err(Error::Half { path: path.clone(), missing: "key" }),
            (None, Some(path)) => return Err(Error::Half { path: path.clone(), missing: "certificate" }),
            (None, None) => config,
        };
        if let Some(domain) = &self.domain {
            config = config.domain_name(domain);
        }
        let tried = Endpoint::from_static("https://localhost").tls_config(config.clone());
        tried.map_err(|error| unusable(self.describe(), &error))?;
        Ok(config)
    }

    /// What is left to blame once every file holds what it should.
    fn describe(&self) -> String {
        let path = self.certificate.as_deref().or(self.ca.as_deref());
        let path = path.map_or("the authorities of the system".to_owned(), |path| path.display().to_string());
        self.domain.as_ref().map_or(path.clone(), |domain| format!("{path} or domain {domain:?}"))
    }
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    Ok(Identity::from_pem(own_certificates(certificate)?.0, private_key(key)?.0))
}

/// The text of a file with certificates that this process presents, and what it holds. One that has expired would only be
/// noticed by whoever is there to be served.
fn own_certificates(path: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), Error> {
    let (pem, chain) = certificates(path)?;
    for certificate in &chain {
        let blame = |reason: String| Error::Unusable { what: path.display().to_string(), reason };
        let parsed = x509_cert::Certificate::from_der(certificate).map_err(|error| blame(error.to_string()))?;
        let (end, subject) = (parsed.tbs_certificate().validity().not_after, parsed.tbs_certificate().subject());
        if end.to_system_time() < SystemTime::now() {
            return Err(blame(format!("the certificate of {subject} has expired at {end}")));
        }
    }
    Ok((pem, chain))
}

/// The text of a file with certificates, and what it holds.
fn certificates(path: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), Error> {
    let (pem, expected) = (read(path)?, "certificate");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| wrong(path, expected, &error))?;
    if found.is_empty() {
        return Err(Error::Missing { path: path.to_owned(), expected });
    }
    Ok((pem, found))
}

/// The text of a file with a private key, and what it holds.
fn private_key(path: &Path) -> Result<(Vec<u8>, PrivateKeyDer<'static>), Error> {
    let pem = read(path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem);
    let key = key.map_err(|error| wrong(path, "private key that is not encrypted", &error))?;
    Ok((pem, key))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })
}

fn wrong(path: &Path, expected: &'static str, error: &pem::Error) -> Error {
    let path = path.to_owned();
    match error {
        pem::Error::NoItemsFound => Error::Missing { path, expected },
        other => Error::Pem { path, reason: other.to_string() },
    }
}

fn unusable(what: String, error: &dyn std::error::Error) -> Error {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        reason = deeper.to_string();
        cause = deeper.source();
    }
    Error::Unusable { what, reason }
}

#[cfg(test)]
mod tests;
