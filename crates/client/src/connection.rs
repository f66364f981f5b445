//! Gateways, and what one of them is asked apart from a stream of items: its models, its status, a single call.

use std::time::Duration;

use proto::v1;
use proto::v1::reward_service_client::RewardServiceClient;
use proto::v1::status_service_client::StatusServiceClient;
use service::Network;
use service::net::{Pings, in_full, tls_refusal};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::Error;

/// Where a gateway is.
#[derive(Clone)]
pub struct Endpoint {
    name: String,
    network: Network,
    address: String,
}

/// Gateways that serve the same models. The list is walked in a circle.
pub struct Endpoints {
    /// At least one.
    list: Vec<Endpoint>,
    next: usize,
}

/// A connection to a gateway. Clones share it.
#[derive(Clone)]
pub struct Connection {
    /// What its endpoint is called.
    pub name: String,
    channel: Channel,
}

/// What each call says beside its items.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// How the items are read.
    pub options: v1::Options,
    /// Who they are charged to.
    pub tenant: Option<MetadataValue<Ascii>>,
    /// How long a call may take.
    pub timeout: Option<Duration>,
}

pub(crate) type RewardClient = RewardServiceClient<Channel>;

/// How long a connection may take to come about, and a gateway to say what it serves.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A gateway that is silent for twice as long is gone.
const PINGS: Pings = Pings { interval: Duration::from_secs(5), timeout: Duration::from_secs(5) };
/// What a gateway may answer with, and what one reads that does not say.
const LARGEST_MESSAGE: usize = 64 << 20;
/// What goes with an item takes so much of a message, or a part of it if that is less.
const BESIDE: usize = 64 << 10;
const BESIDE_PART: usize = 64;
/// Nobody waits longer: a gateway would give its default to a stream that says nothing, and items wait for their turn.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

// === impl Endpoint ===

impl Endpoint {
    /// The gateway at `address`, as that network has addresses; `name` is what messages call it.
    pub fn new(name: impl Into<String>, network: Network, address: impl Into<String>) -> Self {
        Self { name: name.into(), network: network.with_pings(PINGS), address: address.into() }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Gateways to be walked in this order, from the first on.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(list: Vec<Endpoint>) -> Result<Self, Error> {
        if list.is_empty() { Err(Error::NoEndpoint) } else { Ok(Self { list, next: 0 }) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// What they are called.
    pub fn names(&self) -> Vec<String> {
        self.list.iter().map(|endpoint| endpoint.name.clone()).collect()
    }

    /// Connects to the next one.
    ///
    /// # Errors
    /// Which one it was, and what is wrong, if that fails.
    pub async fn dial(&mut self) -> Result<Connection, (String, Status)> {
        let Endpoint { name, network, address } = &self.list[self.next % self.list.len()];
        self.next = (self.next + 1) % self.list.len();
        match network.dial(address, PATIENCE).await {
            Ok(channel) => Ok(Connection { name: name.clone(), channel }),
            Err(error) => {
                let unavailable = || Status::unavailable(in_full(&error));
                Err((name.clone(), tls_refusal(&error).map_or_else(unavailable, Status::failed_precondition)))
            }
        }
    }
}

// === impl Connection ===

impl Connection {
    /// The models that it serves.
    ///
    /// # Errors
    /// What the call ended with.
    pub async fn models(&self) -> Result<Vec<v1::Model>, Status> {
        Ok(self.listed().await?.0)
    }

    /// The models that it serves, and the largest item that it reads, in bytes.
    pub(crate) async fn listed(&self) -> Result<(Vec<v1::Model>, usize), Status> {
        let said = answered(self.rewards().list_models(v1::ListModelsRequest {})).await?;
        let message = match usize::try_from(said.largest_message) {
            Ok(0) => LARGEST_MESSAGE,
            message => message.unwrap_or(usize::MAX),
        };
        Ok((said.models, message - BESIDE.min(message / BESIDE_PART)))
    }

    /// How it is doing.
    ///
    /// # Errors
    /// What the call ended with.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let client = StatusServiceClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(LARGEST_MESSAGE);
        answered(client.get_status(v1::GetStatusRequest {})).await.map_err(|status| match status.code() {
            Code::Unimplemented => {
                Status::unimplemented("whoever answers there tells no status: it is no gateway, or an old one")
            }
            _ => status,
        })
    }

    /// Has items scored in one call, once: nothing is tried again.
    ///
    /// # Errors
    /// What the call ended with.
    pub async fn score(&self, items: Vec<v1::Item>, terms: &Terms) -> Result<v1::ScoreResponse, Status> {
        let request = v1::ScoreRequest { items, options: Some(terms.options.clone()) };
        Ok(self.rewards().score(terms.request(request)).await?.into_inner())
    }

    /// The one of the models it serves that is wanted.
    ///
    /// # Errors
    /// If there is none, or it does not take such long conversations.
    pub fn choose(&self, served: Vec<v1::Model>, options: &v1::Options) -> Result<v1::Model, Error> {
        let (endpoint, wanted) = (self.name.clone(), options.max_length);
        let only = served.len() == 1 && options.model.is_empty();
        let Some(place) = served.iter().position(|model| only || model.name == options.model) else {
            let served = served.into_iter().map(|model| model.name).collect();
            return Err(Error::Model { endpoint, wanted: options.model.clone(), served });
        };
        let model = served.into_iter().nth(place).unwrap_or_default();
        if wanted > model.max_length {
            return Err(Error::Length { endpoint, wanted, limit: model.max_length });
        }
        Ok(model)
    }

    pub(crate) fn rewards(&self) -> RewardClient {
        RewardServiceClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }
}

/// What a short question is answered with.
async fn answered<T>(asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::unavailable("it does not answer"));
    timeout(PATIENCE, asked).await.unwrap_or_else(late).map(Response::into_inner)
}

// === impl Terms ===

impl Terms {
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.unwrap_or(FAR));
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert(proto::TENANT_KEY, tenant.clone());
        }
        request
    }
}

#[cfg(test)]
mod tests;
