//! `switchboard webhook listen`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output;
use crate::config::Secret;
use crate::webhooks::listen::{Listen, ListenError, Listener};

/// The delay after the server could not be reached.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The flags of `webhook listen`.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9501")]
    url: String,
    /// A file with an API key that has the scope `feed`; without it, SWITCHBOARD_TOKEN. A `dev` server needs none
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify https:// URLs [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The types of entries [default: all but those of the audit log]
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    types: Vec<String>,
    /// Which conversations, such as '#support-*'; may be given again [default: all]
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Where it begins: now, 0, or a cursor of the feed
    #[arg(long, value_name = "CURSOR", default_value = "now")]
    from: String,
    /// A URL that gets each entry, by POST and signed, as from a webhook
    #[arg(long, value_name = "URL")]
    forward: Option<String>,
    /// A file with a secret of at least 32 bytes, so that requests are signed with the same secret each time [default: a new one]
    #[arg(long, value_name = "FILE", requires = "forward")]
    secret_file: Option<PathBuf>,
}

/// Prints entries, one a line as a webhook's body, until the process is interrupted.
pub(super) async fn run(args: ListenArgs) -> anyhow::Result<ExitCode> {
    let ListenArgs { url, key_file, ca, types, only, from, forward, secret_file } = args;
    let key = match key_file {
        Some(path) => Some(read(&path)?.trim().to_owned()),
        None => std::env::var("SWITCHBOARD_TOKEN").ok().filter(|key| !key.is_empty()),
    };
    let secret = secret_file.map(|path| anyhow::Ok(Secret::new(read(&path)?)?)).transpose()?;
    let listen = Listen { server: &url, key, ca: ca.as_deref(), types, only, from, forward, secret };
    let (mut listener, secret) = Listener::new(listen)?;
    if let Some(secret) = secret {
        output::eprint_line(&format!("requests are signed with {secret}"));
    }
    let mut has_listened = false;
    loop {
        match listener.next().await {
            Ok(entries) => {
                has_listened = true;
                for entry in entries {
                    output::print_line(&Listener::body(&entry).unwrap_or_default())?;
                    if let Some(answer) = listener.forward(&entry).await {
                        output::eprint_line(&output::printable(&answer.describe()));
                    }
                }
            }
            // A failure of the first call is more likely a wrong URL than a temporary fault.
            Err(ListenError::Unreachable(why)) if has_listened => {
                output::eprint_line(&format!("the server cannot be reached: {}", output::printable(&why)));
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen to {url}")),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
