//! The flags of commands that call a running server with an API key.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

/// Where the server is, and with which key it is called.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9501")]
    pub(super) url: String,
    /// A file with the API key; without it, SWITCHBOARD_TOKEN. A `dev` server needs none
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify https:// URLs [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
}

impl RemoteArgs {
    /// The key, if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn key(&self) -> anyhow::Result<Option<String>> {
        Ok(match &self.key_file {
            Some(path) => Some(read(path)?.trim().to_owned()),
            None => std::env::var("SWITCHBOARD_TOKEN").ok().filter(|key| !key.is_empty()),
        })
    }
}

/// Reads a small file.
///
/// # Errors
/// The file cannot be read; the error names it.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
