//! Where the database is, for the commands that use it without a server.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{FileArgs, environment};
use crate::config::{Config, Flags, Mode};
use crate::store::keys::KeyStore;

/// Where the database is.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    file: FileArgs,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY", value_parser = NonEmptyStringValueParser::new())]
    data: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Place {
    pub(super) fn data(self) -> anyhow::Result<PathBuf> {
        let config = Config::read(Mode::Serve, &self.file.flags(), &environment())?;
        match (self.data, config.cluster) {
            (Some(data), _) => Ok(data.into()),
            (None, None) => Ok(config.data),
            (None, Some(shared)) => bail!(
                "the database of this configuration is {}, and this is for SQLite's: PostgreSQL has `pg_dump` and tools of \
                 its own (docs/scaling.md); for an SQLite directory, say which with --data",
                shared.store
            ),
        }
    }
}

/// Where the API keys are.
#[derive(Debug, Args)]
pub(super) struct KeyPlace {
    #[command(flatten)]
    file: FileArgs,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "store")]
    data: Option<String>,
    /// The PostgreSQL database of an installation of several nodes
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl KeyPlace {
    pub(super) fn keys(self) -> anyhow::Result<KeyStore> {
        let flags = Flags { data: self.data, store: self.store, ..self.file.flags() };
        Ok(crate::key_store(&Config::read(Mode::Serve, &flags, &environment())?))
    }
}
