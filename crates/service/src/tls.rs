//! TLS from settings: the paths of PEM files become what a server or a client presents and trusts.
//!
//! Everything is read and tried when it is loaded, so that a process with a wrong file ends before it listens. What is
//! loaded stays as it is: a certificate that was replaced on disk counts from the next start on.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

/// How a server proves who it is, and whether it asks the same of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
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
        /// Why.
        reason: String,
    },
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error`], with the name of the file.
    pub fn load(&self) -> Result<ServerTlsConfig, Error> {
        let mut config = ServerTlsConfig::new().identity(identity(&self.certificate, &self.key)?);
        if let Some(path) = &self.client_ca {
            config = config.client_ca_root(Certificate::from_pem(certificates(path)?));
        }
        let tried = Server::builder().tls_config(config.clone());
        tried.map_err(|error| unusable(self.certificate.display().to_string(), &error))?;
        Ok(config)
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
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates(path)?)),
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
    let (certificate, pem) = (certificates(certificate)?, read(key)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong(key, "private key that is not encrypted", &error))?;
    Ok(Identity::from_pem(certificate, pem))
}

fn certificates(path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(path)?;
    let expected = "certificate";
    let mut found = CertificateDer::pem_slice_iter(&pem).peekable();
    if found.peek().is_none() {
        return Err(Error::Missing { path: path.to_owned(), expected });
    }
    found.try_for_each(|certificate| certificate.map(drop)).map_err(|error| wrong(path, expected, &error))?;
    Ok(pem)
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

fn unusable(what: String, error: &tonic::transport::Error) -> Error {
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
