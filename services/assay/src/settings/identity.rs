//! Which replica and which ranks of it a pod of Kubernetes has: its place in a StatefulSet or in a group of a
//! LeaderWorkerSet, from the variables of its environment, as a function of them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RankRange, ShardSettings};

/// Who says which replica and which ranks a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize, JsonSchema)]
#[value(rename_all = "lower")]
#[serde(rename_all = "lowercase")]
pub(crate) enum Identity {
    /// The settings
    #[default]
    Settings,
    /// The ordinal of the pod in its StatefulSet: POD_NAME (or HOSTNAME) and POD_IP
    StatefulSet,
    /// The pod's place in its LeaderWorkerSet: LWS_LEADER_ADDRESS, LWS_GROUP_SIZE and LWS_WORKER_INDEX
    LeaderWorkerSet,
}

/// The variables of an environment.
pub(crate) type Variables = BTreeMap<String, String>;

/// A process among those of its replica.
struct Place {
    replica: String,
    worker: usize,
    workers: usize,
    /// Where others reach its host.
    host: String,
}

// === impl ShardSettings ===

impl ShardSettings {
    /// Refuses what the identity leaves no room for.
    pub(super) fn check_identity(&self) -> Result<()> {
        let Self { identity, workers, .. } = self;
        if *identity != Identity::StatefulSet {
            ensure!(workers.get() == 1, "workers = {workers}: only identity = \"statefulset\" reads it");
        }
        if *identity != Identity::Settings {
            ensure!(self.ranks.is_none(), "ranks come from the identity, leave them out");
            ensure!(self.replica == Self::default().replica, "the replica comes from the identity, leave it out");
        }
        Ok(())
    }

    /// With the replica, the ranks and the address that the identity says.
    ///
    /// # Errors
    /// Which variable is missing or malformed.
    pub(crate) fn placed(self, variables: &Variables) -> Result<Self> {
        let place = match self.identity {
            Identity::Settings => return Ok(self),
            Identity::StatefulSet => in_stateful_set(self.workers, variables).context("identity statefulset")?,
            Identity::LeaderWorkerSet => in_leader_worker_set(variables).context("identity leaderworkerset")?,
        };
        let Place { replica, worker, workers, host } = place;
        let ranks = self.tensor_parallel.get();
        ensure!(
            ranks.is_multiple_of(workers),
            "tensor_parallel: {ranks} ranks cannot be shared by {workers} workers alike"
        );
        let own = ranks / workers;
        let advertise = match self.advertise {
            Some(address) => address,
            None => {
                let port =
                    self.listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).filter(|port| *port > 0);
                let port = port.with_context(|| format!("listen {}: expected a port to tell others", self.listen))?;
                let told = |ip: IpAddr| SocketAddr::new(ip, port).to_string();
                host.parse().map_or_else(|_| format!("{host}:{port}"), told)
            }
        };
        Ok(Self {
            identity: Identity::Settings,
            workers: NonZeroUsize::MIN,
            replica,
            ranks: Some(RankRange(worker * own..(worker + 1) * own)),
            advertise: Some(advertise),
            ..self
        })
    }
}

/// Of consecutive pods, `workers` are a replica: `reward-4` and `reward-5` are workers 0 and 1 of `reward-2`.
fn in_stateful_set(workers: NonZeroUsize, variables: &Variables) -> Result<Place> {
    let name = if variables.contains_key("POD_NAME") { "POD_NAME" } else { "HOSTNAME" };
    let pod = variables.get(name).context("neither POD_NAME nor HOSTNAME is set")?;
    let parts = pod.rsplit_once('-').and_then(|(set, ordinal)| Some((set, ordinal.parse::<usize>().ok()?)));
    let (set, ordinal) =
        parts.with_context(|| format!("{name} {pod:?} is no name of such a pod, expected NAME-ORDINAL"))?;
    let host = variable::<IpAddr>(variables, "POD_IP", "the pod's address, as of status.podIP")?.to_string();
    Ok(Place {
        replica: format!("{set}-{}", ordinal / workers),
        worker: ordinal % workers,
        workers: workers.get(),
        host,
    })
}

/// A group is a replica, and called like its leader's pod. A worker's pod is called like the leader's with its index, and
/// lies in the same domain.
fn in_leader_worker_set(variables: &Variables) -> Result<Place> {
    let leader: String = variable(variables, "LWS_LEADER_ADDRESS", "the name of the leader's pod and its domain")?;
    let workers: NonZeroUsize = variable(variables, "LWS_GROUP_SIZE", "a number from 1 on")?;
    let worker: usize = variable(variables, "LWS_WORKER_INDEX", "a number from 0 on")?;
    ensure!(worker < workers.get(), "LWS_WORKER_INDEX {worker} is not in a group with LWS_GROUP_SIZE {workers}");
    let (replica, domain) = leader
        .split_once('.')
        .filter(|(replica, domain)| !replica.is_empty() && !domain.is_empty())
        .with_context(|| format!("LWS_LEADER_ADDRESS {leader:?} is no address of a pod, expected POD.DOMAIN"))?;
    let host = if worker == 0 { leader.clone() } else { format!("{replica}-{worker}.{domain}") };
    Ok(Place { replica: replica.to_owned(), worker, workers: workers.get(), host })
}

fn variable<T: FromStr<Err: Display>>(variables: &Variables, name: &str, expected: &str) -> Result<T> {
    let text = variables.get(name).with_context(|| format!("{name} is not set, expected {expected}"))?;
    text.parse().map_err(|error| anyhow::anyhow!("{name} {text:?}: expected {expected}: {error}"))
}

#[cfg(test)]
mod tests;
