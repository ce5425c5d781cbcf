//! The database flags of the commands that use a database without a server.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{FileArgs, environment};
use crate::config::{Config, Flags, Mode};
use switchboard_store::keys::KeyStore;

/// The flags that locate an SQLite database.
#[derive(Debug, Args)]
pub(super) struct DatabaseArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY", value_parser = NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl DatabaseArgs {
    /// The data directory.
    pub(super) fn data_directory(self) -> anyhow::Result<PathBuf> {
        let config = Config::read(Mode::Serve, &self.file.flags(), &environment())?;
        match (self.data, config.cluster) {
            (Some(data), _) => Ok(data.into()),
            (None, None) => Ok(config.data),
            (None, Some(shared)) => bail!(
                "this command works on SQLite, but the configured database is {}: use `pg_dump` and the other tools of \
                 PostgreSQL (docs/scaling.md), or name an SQLite directory with --data",
                shared.store
            ),
        }
    }
}

/// The flags that locate the database of API keys.
#[derive(Debug, Args)]
pub(super) struct KeyDatabaseArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "store")]
    data: Option<String>,
    /// The PostgreSQL database of a cluster; SWITCHBOARD_STORE or SWITCHBOARD_STORE_FILE keep its password out of the process list
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl KeyDatabaseArgs {
    /// The store of API keys.
    pub(super) fn key_store(self) -> anyhow::Result<KeyStore> {
        Ok(crate::key_store(&self.config()?))
    }

    /// The configuration with these flags.
    pub(super) fn config(self) -> anyhow::Result<Config> {
        let flags = Flags { data: self.data, store: self.store, ..self.file.flags() };
        Ok(Config::read(Mode::Serve, &flags, &environment())?)
    }
}
