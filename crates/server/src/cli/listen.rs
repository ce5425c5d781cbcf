//! `switchboard webhook listen`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::value::RawValue;

use super::output;
use super::remote::{RemoteArgs, read};
use crate::config::Secret;
use crate::webhooks::listen::{Listen, ListenError, Listener};

/// The delay after the server could not be reached.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The flags of `webhook listen`.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    #[command(flatten)]
    remote: RemoteArgs,
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
    let ListenArgs { remote, types, only, from, forward, secret_file } = args;
    let secret = secret_file.map(|path| anyhow::Ok(Secret::new(read(&path)?)?)).transpose()?;
    let (server, key, ca) = (&remote.url, remote.key()?, remote.ca.as_deref());
    let listen = Listen { server, key, ca, types, only, from, follow: true, forward, secret };
    let (mut listener, secret) = Listener::new(listen)?;
    if let Some(secret) = secret {
        output::eprint_line(&format!("requests are signed with {secret}"));
    }
    let listening = until_the_end(&mut listener, async |listener, entry| {
        output::print_line(&Listener::body(entry).unwrap_or_default())?;
        if let Some(answer) = listener.forward(entry).await {
            output::eprint_line(&output::printable(&answer.describe()));
        }
        Ok(())
    });
    listening.await.with_context(|| format!("cannot listen to {}", remote.url))?;
    Ok(ExitCode::SUCCESS)
}

/// Gives each entry to `take`: for ever if the listener follows the feed, else up to its end. A server that cannot be reached for a
/// time is tried again.
///
/// # Errors
/// The server refuses, or it was never reached, which is more likely a wrong URL than a temporary fault.
pub(super) async fn until_the_end(
    listener: &mut Listener,
    mut take: impl AsyncFnMut(&Listener, &RawValue) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut has_listened = false;
    while !listener.is_at_end() {
        match listener.next().await {
            Ok(entries) => {
                has_listened = true;
                for entry in entries {
                    take(listener, &entry).await?;
                }
            }
            Err(ListenError::Unreachable(why)) if has_listened => {
                output::eprint_line(&format!("the server cannot be reached: {}", output::printable(&why)));
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
