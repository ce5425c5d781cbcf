//! `switchboard config`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use super::{FileArgs, config_check, environment, output};
use crate::auth::Authenticator;
use crate::config::{Config, Mode, default_toml};
use switchboard_store::clock::Clock;

/// The flags of `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tries what `serve` would do with this configuration, and prints a line for each part
    Check {
        #[command(flatten)]
        file: FileArgs,
        /// Check the settings only: open no database, address or connection
        #[arg(long)]
        offline: bool,
    },
    /// Prints the effective configuration from all sources, with secrets masked
    Show {
        #[command(flatten)]
        file: FileArgs,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Prints a file with every setting, what it does and its default
    Default,
}

/// Checks or prints the configuration.
pub(super) fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ConfigCommand::Check { file, offline } => {
            let config = Config::load(Mode::Serve, &file.flags(), &environment())?;
            if offline {
                check_settings(&config)?;
            } else {
                config_check::try_all_parts(&config)?;
            }
            output::print_line("the configuration is good")?;
        }
        ConfigCommand::Show { file, json: true } => output::print_line(&file.read()?.to_json()?.to_string())?,
        ConfigCommand::Show { file, json: false } => output::print_line(file.read()?.to_toml()?.trim_end())?,
        ConfigCommand::Default => output::print_line(default_toml()?.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks what can be checked without a database, an address or a connection.
fn check_settings(config: &Config) -> anyhow::Result<()> {
    Authenticator::new(&config.auth)?;
    if let Some(tls) = &config.tls {
        crate::tls::check(tls, &Clock::system())?;
    }
    if let Some(hooks) = &config.hooks {
        crate::hooks::check(hooks)?;
    }
    match &config.cluster {
        Some(cluster) => crate::check_engines(cluster),
        None => check_directory(&config.data),
    }
}

/// Checks that the data directory is writable or can be created.
pub(super) fn check_directory(data: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(data)?;
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    ensure!(existing.is_dir(), "`data` is {}, and {} is not a directory", data.display(), existing.display());
    tempfile::tempfile_in(existing).map(drop).with_context(|| {
        format!("`data` is {}, and nothing can be written to {}", data.display(), existing.display())
    })
}
