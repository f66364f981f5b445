//! A reading as tables for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use proto::v1::{GetStatusResponse, RankStatus, ReplicaStatus};

/// Enough of a fingerprint to tell two apart.
const FINGERPRINT: usize = 12;

/// All tables.
pub(super) fn of(reading: &GetStatusResponse) -> String {
    let mut text = format!("gateway {}\n", reading.gateway);
    for table in [models(reading), replicas(reading), waiting(reading)].into_iter().flatten() {
        // a line of a table is as wide as the table
        let lines = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        let _ = write!(text, "\n{lines}\n");
    }
    text
}

/// A table without lines; numbers stand on the right.
pub(in crate::remote) fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn models(reading: &GetStatusResponse) -> Option<Table> {
    let header =
        ["MODEL", "GENERATION", "FINGERPRINT", "READY", "STANDBY", "OPEN", "WAITING", "SENT", "TOKENS/S", "RETRIED"];
    let mut table = table(&header, &[1, 3, 4, 5, 6, 7, 8, 9]);
    for model in &reading.models {
        let fingerprint: String = model.fingerprint.chars().take(FINGERPRINT).collect();
        table.add_row([
            model.name.clone(),
            model.generation.to_string(),
            if fingerprint.is_empty() { "-".to_owned() } else { fingerprint },
            model.replicas_ready.to_string(),
            model.replicas_standby.to_string(),
            model.conversations.to_string(),
            model.waiting_tokens.to_string(),
            model.sent_tokens.to_string(),
            format!("{:.0}", model.tokens_per_second),
            model.retried.to_string(),
        ]);
    }
    (!reading.models.is_empty()).then_some(table)
}

fn replicas(reading: &GetStatusResponse) -> Option<Table> {
    let mut table = table(&["REPLICA", "MODEL", "STATE", "EPOCH", "RANKS", "ADDRESS", "REASON"], &[3]);
    for replica in &reading.replicas {
        table.add_row([
            replica.name.clone(),
            replica.model.clone(),
            replica.state().word(),
            replica.epoch.to_string(),
            ranks(replica),
            replica.address.clone(),
            replica.reason.clone(),
        ]);
    }
    (!reading.replicas.is_empty()).then_some(table)
}

fn waiting(reading: &GetStatusResponse) -> Option<Table> {
    let mut table = table(&["MODEL", "TENANT", "WAITING", "OLDEST"], &[2, 3]);
    let mut some = false;
    for model in &reading.models {
        for waiting in &model.waiting {
            let oldest = format!("{:.1} s", waiting.oldest_seconds);
            table.add_row([model.name.clone(), waiting.tenant.clone(), waiting.tokens.to_string(), oldest]);
            some = true;
        }
    }
    some.then_some(table)
}

/// How many ranks of how many there are, and how far: together where they are as far.
fn ranks(replica: &ReplicaStatus) -> String {
    let ReplicaStatus { ranks, world_size, .. } = replica;
    let count = format!("{}/{world_size}", ranks.len());
    match ranks.as_slice() {
        [] => count,
        [first, rest @ ..] if rest.iter().all(|rank| rank.progress == first.progress) => {
            format!("{count} {}", first.progress().word())
        }
        ranks => {
            let each = ranks.iter().map(|it: &RankStatus| format!("{} {}", it.rank, it.progress().word()));
            format!("{count} ({})", each.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
