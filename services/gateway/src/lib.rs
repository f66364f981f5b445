//! The gateway: takes conversations from clients, has them computed by replicas, and answers.
//!
//! [`core`] decides, as functions over values. Around it:
//!
//! | module | job |
//! |---|---|
//! | `gateway` | start all of it, serve clients, end |
//! | `entrance` | the way in, whatever is spoken outside: from text to tokens and from outcomes to answers |
//! | `grpc`, `http` | what is spoken outside: the services of the protocol; dialects of HTTP, a file each, and the page |
//! | `tokenizers` | threads that render and tokenize, within bounded memory |
//! | `runner` | a task for each model: clock, inbox and outbox of its core |
//! | `replicas` | what is between the core and the world: the registry, and the links to leaders |
//! | `problem` | what is wrong, as a value, and the one table of what it is over gRPC and HTTP |
//! | `observer` | the one window for those who watch: a service of the public protocol |
//! | `page` | the same for people |
//! | `metrics` | what is counted |

pub mod core;
mod entrance;
mod gateway;
mod grpc;
mod http;
mod metrics;
mod observer;
mod options;
mod problem;
mod replicas;
mod runner;
mod tokenizers;

pub use self::gateway::{Ended, Gateway, ServeError, StartError};
pub use self::metrics::METRICS;
pub use self::observer::Observer;
pub use self::options::{ServedModel, ServiceLimits, ServiceOptions, TENANT_KEY, Tenants};

#[cfg(test)]
mod tests;
