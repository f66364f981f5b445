//! `assay config`: settings files, checked and shown.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::args::{Config, ConfigCommand, ServiceKind};
use crate::settings::{GatewaySettings, Settings, ShardSettings, show};

/// Runs the command.
pub(crate) fn run(args: &Config) -> Result<ExitCode> {
    let said = match &args.command {
        ConfigCommand::Check { service: ServiceKind::Gateway, file } => check::<GatewaySettings>(file)?,
        ConfigCommand::Check { service: ServiceKind::Shard, file } => check::<ShardSettings>(file)?,
        ConfigCommand::Show { service: ServiceKind::Gateway } => show(&GatewaySettings::example())?,
        ConfigCommand::Show { service: ServiceKind::Shard } => show(&ShardSettings::example())?,
    };
    std::io::stdout().lock().write_all(said.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn check<T: Settings>(file: &Path) -> Result<String> {
    let settings: T = service::config::load(file)?;
    settings.check().and_then(|()| settings.check_files()).with_context(|| file.display().to_string())?;
    Ok(format!("{}: good\n", file.display()))
}
