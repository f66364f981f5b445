//! A client of gateways: items in, from any iterator or stream, and scores out, in order or as they come.
//!
//! A bounded number of items, and of their bytes, is with a gateway at a time. When the gateway goes away, whatever has no
//! answer is sent to the next one; the first answer to an item is the one that comes out. What no replica could compute
//! and what the gateway has no room for is sent again, and for how long nothing may come of it is one setting
//! ([`Options::patience`]). No file, flag or terminal is known here.
//!
//! ```no_run
//! use client::{Client, Endpoint, Options, Work};
//! use proto::v1::{Item, item::Input};
//!
//! # async fn example() -> Result<(), client::Error> {
//! let gateway = Endpoint::new("http://127.0.0.1:7600", service::Network::tcp(None, None), "127.0.0.1:7600");
//! let client = Client::connect(vec![gateway], Options::default()).await?;
//! let texts = ["one rendered conversation", "another"];
//! let work = texts.map(|text| Work::new(text, Item { input: Some(Input::Text(text.to_owned())) }));
//! let mut scores = client.score(tokio_stream::iter(work));
//! while let Some(answer) = scores.next().await {
//!     let answer = answer?;
//!     for result in answer.results {
//!         match result {
//!             Ok(score) => println!("{}: {}", answer.token, score.score),
//!             Err(failure) => println!("{}: {}", answer.token, failure.message),
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | job |
//! |---|---|
//! | `scores` | the engine: what to send, what to give out, when to go to another gateway |
//! | `window` | the items without an answer, as a value |
//! | `connector` | finds a gateway, knows when to give up |
//! | `connection` | a connection: models, status, single calls |
//! | `exchange` | items to a gateway and answers from it, without retries |
//! | `answer` | what became of an item |

mod answer;
mod connection;
mod connector;
mod error;
mod exchange;
mod scores;
mod window;

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

pub use self::answer::{Answer, Failure, Score, Work};
pub use self::connection::{Connection, Endpoint, Endpoints, Terms};
use self::connector::Connector;
pub use self::error::{Error, in_words, retry_after};
pub use self::exchange::{Exchange, Reply};
pub use self::scores::Scores;

/// How items are scored.
#[derive(Debug, Clone)]
pub struct Options {
    /// How gateways read the items, and which model they ask.
    pub reading: proto::v1::Options,
    /// Who the work is charged to, if it says so.
    pub tenant: Option<MetadataValue<Ascii>>,
    /// How long each item may take at a gateway; by default as long as it takes.
    pub timeout: Option<Duration>,
    /// How long to try on while nothing comes of it: no gateway can be reached, or none has a replica.
    pub patience: Duration,
    /// Items without an answer, at most.
    pub items: usize,
    /// Their bytes, as they are sent; the last item that is taken in may go over it.
    pub bytes: usize,
    /// In which order answers come out.
    pub order: Order,
}

/// In which order answers come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In that of the items.
    AsGiven,
    /// As they come.
    AsDone,
}

/// A gateway was found that serves the model.
pub struct Client {
    options: Options,
    connector: Connector,
    found: connector::Found,
}

/// What a gateway reads of a stream at a time.
const IN_STREAM: usize = 1024;
/// Items of which each is a call of its own: their time runs while others are computed.
const IN_CALLS: usize = 256;

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            reading: proto::v1::Options::default(),
            tenant: None,
            timeout: None,
            patience: Duration::from_secs(60),
            items: IN_STREAM,
            bytes: 32 << 20,
            order: Order::AsGiven,
        }
    }
}

// === impl Client ===

impl Client {
    /// Finds a gateway that serves the model, going round the endpoints.
    ///
    /// # Errors
    /// If the gateways refuse what the options ask for, or none is found within [`Options::patience`].
    pub async fn connect(endpoints: Vec<Endpoint>, mut options: Options) -> Result<Self, Error> {
        if options.timeout.is_some() {
            options.items = options.items.min(IN_CALLS);
        }
        let Options { reading, tenant, timeout, patience, .. } = options.clone();
        let terms = Terms { options: reading, tenant, timeout };
        let mut connector = Connector::new(Endpoints::new(endpoints)?, terms, patience);
        let found = connector.connect().await?;
        Ok(Self { options, connector, found })
    }

    /// The model that is asked, as the gateway that was found describes it.
    pub fn model(&self) -> &proto::v1::Model {
        &self.found.model
    }

    /// Has items scored. Nothing is read of them before the first answer is asked for.
    pub fn score<T>(self, work: impl tokio_stream::Stream<Item = Work<T>> + Send + 'static) -> Scores<T> {
        Scores::new(self.options, self.connector, self.found, Box::pin(work))
    }
}
