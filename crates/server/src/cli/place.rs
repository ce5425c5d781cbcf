//! Where the database is, for the commands that use it without a server.

use std::path::PathBuf;

use clap::Args;

use super::{FileArgs, environment};
use crate::config::{Config, Flags, Mode};

/// Where the database is.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    file: FileArgs,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Place {
    pub(super) fn data(self) -> anyhow::Result<PathBuf> {
        let flags = Flags { data: self.data, ..self.file.flags() };
        Ok(Config::read(Mode::Serve, &flags, &environment())?.data)
    }
}
