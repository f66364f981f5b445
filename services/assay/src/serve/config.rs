//! `assay config`: settings files, checked and shown.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use service::tls::ServerTls;

use super::args::{Config, ConfigCommand, ServiceKind};
use crate::settings::{GatewaySettings, ServedSettings, ShardSettings};

/// Runs the command.
pub(crate) fn run(args: &Config) -> Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    match &args.command {
        ConfigCommand::Check { service: ServiceKind::Gateway, file } => {
            check_gateway(&service::config::load(file)?).with_context(|| file.display().to_string())?;
            writeln!(output, "{}: good", file.display())?;
        }
        ConfigCommand::Check { service: ServiceKind::Shard, file } => {
            check_shard(&service::config::load(file)?).with_context(|| file.display().to_string())?;
            writeln!(output, "{}: good", file.display())?;
        }
        ConfigCommand::Show { service: ServiceKind::Gateway } => {
            let models = vec![ServedSettings { model: "owner/name".to_owned(), ..ServedSettings::default() }];
            let settings = GatewaySettings { models, ..GatewaySettings::default() };
            output.write_all(toml::to_string(&settings)?.as_bytes())?;
        }
        ConfigCommand::Show { service: ServiceKind::Shard } => {
            let settings = ShardSettings { model: "owner/name".to_owned(), ..ShardSettings::default() };
            output.write_all(toml::to_string(&settings)?.as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check_gateway(settings: &GatewaySettings) -> Result<()> {
    settings.check()?;
    settings.tls.as_ref().map(ServerTls::load).transpose().context("tls")?;
    settings.shards.network().context("shards")?;
    settings.registry.options()?;
    Ok(())
}

fn check_shard(settings: &ShardSettings) -> Result<()> {
    settings.check()?;
    settings.tls.network()?;
    settings.registry.options()?;
    Ok(())
}
