//! `assay status`: how a gateway, its models and their replicas are doing, as tables or as JSON.

pub(super) mod tables;

use std::future::pending;
use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use client::{Connection, Endpoints, in_words};
use proto::v1;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::args;

/// Runs the command.
pub(crate) fn run(args: &args::Status) -> Result<ExitCode> {
    let observer =
        Observer { endpoints: Endpoints::new(super::endpoints(&args.gateways)?)?, gateway: None, last: None };
    super::runtime()?.block_on(watch(observer, args))
}

/// Shows one reading, or one after the other until Ctrl-C.
async fn watch(mut observer: Observer, args: &args::Status) -> Result<ExitCode> {
    let in_place = args.watch.is_some() && !args.json && io::stdout().is_terminal();
    let mut interrupted = pin!(interrupted(args.watch));
    loop {
        let reading = tokio::select! {
            reading = observer.read() => reading,
            () = &mut interrupted => return Ok(ExitCode::SUCCESS),
        };
        let (code, text) = match (&reading, args.watch) {
            (Ok(reading), _) => (if is_ready(reading) { 0 } else { crate::SOME_FAILED }, shown(reading, args)?),
            (Err(_), None) => return reading.map(|_| ExitCode::SUCCESS),
            // it may come back
            (Err(error), Some(_)) if !args.json => (crate::WRONG_CALL, format!("{error:#}\n")),
            (Err(error), Some(_)) => {
                tracing::warn!("{error:#}");
                (crate::WRONG_CALL, String::new())
            }
        };
        match print(&text, in_place) {
            // whoever reads it has seen enough
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::from(code)),
            printed => printed?,
        }
        let Some(pace) = args.watch else { return Ok(ExitCode::from(code)) };
        tokio::select! {
            () = sleep(pace) => {}
            () = &mut interrupted => return Ok(ExitCode::from(code)),
        }
    }
}

/// Until Ctrl-C, where that ends a watch; elsewhere it ends the process.
async fn interrupted(watch: Option<Duration>) {
    if watch.is_none() || tokio::signal::ctrl_c().await.is_err() {
        pending::<()>().await;
    }
}

/// Whether each model has a replica that takes work.
fn is_ready(reading: &v1::GetStatusResponse) -> bool {
    reading.models.iter().all(|model| model.replicas_ready > 0)
}

fn shown(reading: &v1::GetStatusResponse, args: &args::Status) -> Result<String> {
    let json = Json { ready: is_ready(reading), reading };
    Ok(match (args.json, args.watch) {
        (false, None) => tables::of(reading),
        (false, Some(_)) => tables::of(reading) + "\n",
        (true, None) => serde_json::to_string_pretty(&json)? + "\n",
        (true, Some(_)) => serde_json::to_string(&json)? + "\n",
    })
}

/// A reading for scripts.
#[derive(Serialize)]
struct Json<'a> {
    ready: bool,
    #[serde(flatten)]
    reading: &'a v1::GetStatusResponse,
}

/// Puts the rates since a reading before in the place of the gateway's own.
fn measure_since(reading: &mut v1::GetStatusResponse, before: &v1::GetStatusResponse, elapsed: Duration) {
    if before.gateway != reading.gateway || elapsed.is_zero() {
        return;
    }
    for model in &mut reading.models {
        let then = before.models.iter().find(|then| then.name == model.name);
        // fewer than before: it has started again
        if let Some(tokens) = then.and_then(|then| model.scored_tokens.checked_sub(then.scored_tokens)) {
            model.tokens_per_second = tokens as f64 / elapsed.as_secs_f64();
        }
    }
}

/// Prints, over what was printed before if that may be.
fn print(text: &str, in_place: bool) -> io::Result<()> {
    let mut output = io::stdout().lock();
    if in_place {
        // to the upper left, and nothing below
        output.write_all(b"\x1b[H\x1b[J")?;
    }
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Who reads gateways.
struct Observer {
    endpoints: Endpoints,
    gateway: Option<Connection>,
    /// The reading before, for what changes from one to the next.
    last: Option<(Instant, v1::GetStatusResponse)>,
}

// === impl Observer ===

impl Observer {
    /// Reads the gateway that was read before, or else the first that answers.
    async fn read(&mut self) -> Result<v1::GetStatusResponse> {
        if let Some(gateway) = self.gateway.take()
            && let Ok(read) = gateway.status().await
        {
            return Ok(self.keep(gateway, read));
        }
        let mut reasons = Vec::new();
        for _ in 0..self.endpoints.count() {
            let asked = match self.endpoints.dial().await {
                Ok(gateway) => match gateway.status().await {
                    Ok(read) => Ok((gateway, read)),
                    Err(why) => Err((gateway.name, why)),
                },
                Err(failed) => Err(failed),
            };
            match asked {
                Ok((gateway, read)) => return Ok(self.keep(gateway, read)),
                Err((name, status)) => reasons.push(format!("{name}: {}", in_words(&status))),
            }
        }
        bail!("{}; is the gateway up, and is this its port for gRPC?", reasons.join("; "))
    }

    fn keep(&mut self, gateway: Connection, mut reading: v1::GetStatusResponse) -> v1::GetStatusResponse {
        let (now, fresh) = (Instant::now(), reading.clone());
        if let Some((then, last)) = &self.last {
            measure_since(&mut reading, last, now - *then);
        }
        self.last = Some((now, fresh));
        self.gateway = Some(gateway);
        reading
    }
}

#[cfg(test)]
mod tests;
