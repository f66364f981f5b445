//! Talking to the hub: requests with a token and timeouts, retries of what may pass, and what a failure means to a person.

use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use ureq::config::RedirectAuthHeaders;
use ureq::typestate::WithoutBody;
use ureq::{Agent, RequestBuilder};

use super::{HubOptions, Repository};
use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes that make an attempt worth repeating without counting it as a failure.
const PROGRESS: u64 = 1 << 20;

/// Why one attempt failed.
pub(super) enum Failure {
    Status(u16),
    Network(String),
    Protocol(String),
    Local(Error),
}

impl Failure {
    /// Whether the same attempt may succeed later.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Status(408 | 429 | 500..=599))
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::StatusCode(status) => Self::Status(status),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Json(_) | ureq::Error::TooManyRedirects => {
                Self::Protocol(error.to_string())
            }
            _ => Self::Network(error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// The way to one repository of the hub.
pub(super) struct Link<'a> {
    pub(super) repository: &'a Repository,
    pub(super) options: &'a HubOptions,
    token: Option<String>,
    pub(super) api: Api,
    agent: Agent,
}

// === impl Link ===

impl<'a> Link<'a> {
    pub(super) fn new(repository: &'a Repository, options: &'a HubOptions) -> Result<Self, Error> {
        let token = options.token.clone().or_else(|| repository.cache.token());
        let mut builder =
            ApiBuilder::from_cache(repository.cache.clone()).with_token(token.clone()).with_progress(false);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let api = builder.build().map_err(|error| Error::Protocol {
            what: "the connection".to_owned(),
            repo: repository.name.clone(),
            reason: error.to_string(),
        })?;
        let agent = Agent::config_builder()
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("assay/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { repository, options, token, api, agent })
    }

    /// What the hub says of the revision: its commit and the names of its files.
    pub(super) fn info(&self) -> Result<RepoInfo, Error> {
        let repo = self.api.repo(self.repository.at(&self.repository.revision));
        self.retry("the list of files", || 0, || Ok(self.patient(repo.info_request()).call()?.body_mut().read_json()?))
    }

    fn patient(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        let limit = Some(self.options.timeout);
        let config = request.config().timeout_resolve(limit).timeout_connect(limit).timeout_send_request(limit);
        config.timeout_recv_response(limit).timeout_per_read(limit).build()
    }

    /// A request for a range of a file, not compressed: ranges count bytes of the file.
    pub(super) fn get(&self, url: &str, range: &str) -> RequestBuilder<WithoutBody> {
        let mut request = self.agent.get(url).header("Range", range).header("Accept-Encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.patient(request)
    }

    /// Tries again what may pass, a bounded number of times without progress; `arrived` counts the bytes.
    pub(super) fn retry<T>(
        &self,
        what: &str,
        arrived: impl Fn() -> u64,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut failures = 0;
        loop {
            let before = arrived();
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if arrived() >= before.saturating_add(PROGRESS) {
                failures = 0;
            }
            let again = failure.may_pass() && failures < self.options.retries;
            let error = self.explain(what, failure);
            if !again {
                return Err(error);
            }
            tracing::warn!(%error, "trying again");
            std::thread::sleep(FIRST_PAUSE * 2_u32.saturating_pow(failures.min(6)));
            failures += 1;
        }
    }

    fn explain(&self, what: &str, failure: Failure) -> Error {
        let repo = self.repository.name.clone();
        let revision = self.repository.revision.clone();
        let what = what.to_owned();
        let unreachable = |reason, what| Error::Unreachable {
            what,
            repo: repo.clone(),
            reason,
            cache: self.repository.cache.path().clone(),
        };
        match failure {
            Failure::Local(error) => error,
            Failure::Network(reason) => unreachable(reason, what),
            Failure::Protocol(reason) => Error::Protocol { what, repo, reason },
            Failure::Status(404) => Error::Unknown { repo, revision },
            Failure::Status(status @ (401 | 403)) => Error::Refused { repo, revision, status, hint: self.hint(status) },
            Failure::Status(status) if failure.may_pass() => unreachable(format!("status {status}"), what),
            Failure::Status(status) => Error::Protocol { what, repo, reason: format!("status {status}") },
        }
    }

    fn hint(&self, status: u16) -> &'static str {
        match (status, &self.token) {
            (_, None) => "it does not exist, or is private or gated: check the name, or pass a token that may read it",
            (401, Some(_)) => "the token is not valid: pass one that may read it",
            (_, Some(_)) => "the token may not read it: accept the model's terms on the hub, or pass another token",
        }
    }
}
