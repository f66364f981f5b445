//! Flags of the commands that talk to a gateway.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgGroup;
use service::config::DurationText;
use service::tls::ClientTls;
use tonic::metadata::{Ascii, MetadataValue};

use super::endpoints::Address;

/// How a gateway is reached over TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsArgs {
    /// A PEM file with the authorities that gateways' certificates come from [default: those that the system trusts]
    #[arg(long, help_heading = "TLS", value_name = "FILE", requires = "endpoint")]
    pub(crate) ca: Option<PathBuf>,

    /// A PEM file with a certificate, for gateways that ask for one
    #[arg(long, help_heading = "TLS", value_name = "FILE", requires = "key", requires = "endpoint")]
    pub(crate) certificate: Option<PathBuf>,

    /// A PEM file with the certificate's private key
    #[arg(long, help_heading = "TLS", value_name = "FILE", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,

    /// The name that gateways' certificates carry [default: the endpoint's host]
    #[arg(long, help_heading = "TLS", value_name = "NAME", requires = "endpoint")]
    pub(crate) domain: Option<String>,
}

/// `assay score` by a gateway.
#[derive(Debug, Clone, clap::Args)]
#[command(
    next_help_heading = "Scores from a gateway",
    group(ArgGroup::new("local").multiple(true).conflicts_with("endpoint")
        .args(["tensor_parallel", "device", "dtype", "threads", "max_batch_tokens", "revision"]))
)]
pub(crate) struct Remote {
    /// Have the scores computed by the gateway at http://host:port, https://host:port or host:port. When it goes away
    /// the next one of the list takes over
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    endpoint: Vec<Address>,

    /// Who the work is charged to
    #[arg(long, value_name = "NAME", requires = "endpoint", value_parser = tenant)]
    pub(crate) tenant: Option<MetadataValue<Ascii>>,

    /// How long a line may take at the gateway, as in 30s; its conversations have the status deadline_exceeded then
    /// [default: as long as it takes]
    #[arg(long, value_name = "DURATION", requires = "endpoint", value_parser = length)]
    pub(crate) timeout: Option<Duration>,

    /// How long to try on while no gateway can be reached, or none has a replica
    #[arg(long, value_name = "DURATION", requires = "endpoint", value_parser = length, default_value = "60s")]
    pub(crate) retry_for: Duration,

    #[command(flatten)]
    tls: TlsArgs,
}

/// Where the gateways are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EndpointArgs {
    /// Gateways: http://host:port, https://host:port or host:port
    #[arg(long, value_name = "URL,...", value_delimiter = ',', required = true)]
    pub(crate) endpoint: Vec<Address>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// Show how a gateway, its models and their replicas are doing
///
/// The exit status is 0 if each model has a replica that is ready, 1 if one has none, and 2 if no gateway was reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) gateways: EndpointArgs,

    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = pace)]
    pub(crate) watch: Option<Duration>,

    /// Print one JSON object; with --watch one in each line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure how a gateway does under load
///
/// So many calls are open at a time (--concurrency), or calls come at a rate, at random times (--rate): then a call's
/// time counts from when it was due, also if it could not be sent then. What is due during the warm-up is not counted,
/// what is due later is waited for. Ctrl-C ends it early, with what was measured.
/// The exit status is 1 if a conversation that counts has no score, 2 for a wrong call or if no gateway was reached.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("as_text").multiple(true).args(["text", "group"])))]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) gateways: EndpointArgs,

    /// What the gateway calls the model; not needed where one is served
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Calls that are open at a time; with --stream items
    #[arg(long, value_name = "N", default_value = "64", conflicts_with = "rate")]
    pub(crate) concurrency: NonZeroUsize,

    /// Conversations a second, as Poisson arrivals
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(crate) rate: Option<f64>,

    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = length)]
    pub(crate) duration: Duration,

    /// How long the load goes on before that
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = length_or_none)]
    pub(crate) warmup: Duration,

    /// Tokens of a conversation, or a range to draw from, as in 64..512
    #[arg(long, value_name = "N|FROM..TO", default_value = "300")]
    pub(crate) tokens: Tokens,

    /// Token ids are drawn from 0 up to this
    #[arg(long, value_name = "N", default_value = "500", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "as_text")]
    pub(crate) vocab: u32,

    /// Send messages made of English words in place of token ids: --tokens words of the assistant
    #[arg(long)]
    pub(crate) text: bool,

    /// Responses to one prompt; sent as text
    #[arg(long, value_name = "N")]
    pub(crate) group: Option<NonZeroUsize>,

    /// Words of the user in text
    #[arg(long, value_name = "N", default_value = "64", requires = "as_text")]
    pub(crate) prompt_tokens: NonZeroUsize,

    /// Items of a call: conversations, or groups of them
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "stream")]
    pub(crate) batch: NonZeroUsize,

    /// Send the items over one stream for each endpoint
    #[arg(long)]
    pub(crate) stream: bool,

    /// Who the work is charged to
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    pub(crate) tenant: Option<MetadataValue<Ascii>>,

    /// How long a call may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = length)]
    pub(crate) timeout: Duration,

    /// What is drawn at random depends on this alone
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) seed: u64,

    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// How many tokens a conversation has: from the one to the other, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

// === impl Tokens ===

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| (1..=1 << 20).contains(number));
        match (number(least), number(most)) {
            (Some(least), Some(most)) if least <= most => Ok(Self { least, most }),
            _ => Err("expected a number from 1 to 1048576, or two of them as in 64..512".to_owned()),
        }
    }
}

// === impl Remote ===

impl Remote {
    /// Whether a gateway is to compute the scores.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.endpoint.is_empty()
    }

    /// Where the gateways are.
    pub(crate) fn gateways(&self) -> EndpointArgs {
        EndpointArgs { endpoint: self.endpoint.clone(), tls: self.tls.clone() }
    }
}

// === impl TlsArgs ===

impl TlsArgs {
    /// The settings, if any is given.
    pub(super) fn settings(&self) -> Option<ClientTls> {
        let Self { ca, certificate, key, domain } = self.clone();
        let settings = ClientTls { ca, certificate, key, domain };
        (settings != ClientTls::default()).then_some(settings)
    }
}

/// A length of time with a unit, or a number of seconds; more than none.
pub(super) fn length(text: &str) -> Result<Duration, String> {
    let length = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => DurationText::parse(text),
    };
    match length? {
        Duration::ZERO => Err("expected more than nothing".to_owned()),
        length => Ok(length),
    }
}

fn length_or_none(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { length(text) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (1e-3..=1e6).contains(rate));
    rate.ok_or_else(|| "expected a number from 0.001 to 1000000".to_owned())
}

/// Seconds between two looks.
fn pace(text: &str) -> Result<Duration, String> {
    let pace = length(text)?;
    if pace < Duration::from_millis(100) { Err("expected 0.1 or more".to_owned()) } else { Ok(pace) }
}

/// A name that fits into metadata.
pub(super) fn tenant(text: &str) -> Result<MetadataValue<Ascii>, String> {
    let sound = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let name = text.parse().ok().filter(|_| sound);
    name.ok_or_else(|| "expected 1 to 64 ASCII characters".to_owned())
}

#[cfg(test)]
mod tests;
