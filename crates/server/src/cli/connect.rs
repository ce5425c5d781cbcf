//! What `send` and `tail` share: whom they speak as, and to which server.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use switchboard_client::ClientError;
use switchboard_protocol::reply::{Failure, Reply};
use switchboard_protocol::{Event, Hello, Seq, Target, UserId};

use super::output;

/// The flags of everything that connects to a server.
#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// The server's WebSocket
    #[arg(long, default_value = "ws://127.0.0.1:9501/v1/ws")]
    pub(super) url: String,
    #[command(flatten)]
    who: Who,
    /// Print frames as they are on the wire
    #[arg(long)]
    pub(super) json: bool,
}

/// Whom one speaks as. A flag wins over the environment.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Who {
    /// A user's token; in SWITCHBOARD_TOKEN or a file it is not seen in the list of processes
    #[arg(long)]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The user, for a `switchboard dev` server
    #[arg(long)]
    user: Option<UserId>,
}

impl ConnectArgs {
    /// The first frame of a connection. Fails if nothing says who one is.
    pub(super) fn hello(&self) -> anyhow::Result<Hello> {
        let from_env = || std::env::var("SWITCHBOARD_TOKEN").ok().filter(|token| !token.is_empty());
        let token = match &self.who {
            Who { user: Some(_), .. } => None,
            Who { token: Some(token), .. } => Some(token.clone()),
            Who { token_file: Some(path), .. } => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read {}", path.display()))?)
            }
            _ => match from_env() {
                Some(token) => Some(token),
                None => bail!(
                    "who are you? Set SWITCHBOARD_TOKEN to a token (`switchboard token alice` makes one), or \
                     say `--user alice` to a `switchboard dev` server"
                ),
            },
        };
        let token = token.map(|token| token.trim().to_owned());
        Ok(Hello {
            token,
            user: self.who.user.clone(),
            device: None,
            cursors: std::collections::BTreeMap::new(),
        })
    }
}

/// Runs a client: one thread is plenty.
pub(super) fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(work)
}

/// Tells of an error: with `--json` an `error` frame is data, otherwise it is said to the person.
pub(super) fn failed(error: ClientError, json: bool) -> anyhow::Result<ExitCode> {
    match error {
        ClientError::Refused(failure) if json => output::line(&frame(&Reply::Error(failure))?)?,
        ClientError::Refused(failure) => output::note(&format!("error: {}", said(&failure))),
        other => return Err(other.into()),
    }
    Ok(ExitCode::FAILURE)
}

/// A refusal in words.
pub(super) fn said(failure: &Failure) -> String {
    let code = failure.code.as_str();
    let wait = failure.retry_after.map_or_else(String::new, |ms| format!(" (wait {ms} ms)"));
    format!("{code}: {}{wait}", output::printable(&failure.message))
}

/// A frame as it is on the wire.
pub(super) fn frame(reply: &Reply<Event>) -> anyhow::Result<String> {
    serde_json::to_string(reply).context("a frame has no JSON form")
}

/// A number as JSON writes it.
pub(super) fn parse_seq(text: &str) -> Result<Seq, &'static str> {
    serde_json::from_str(text).map_err(|_| "write the number of an event, at most 2^53 - 1")
}

/// For clap: `@bob`, `#general` or `@alice:bob`.
pub(super) fn parse_target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|e| {
        // A shell takes an unquoted # for the start of a comment, so rooms are often typed without it.
        format!("write @bob for a user or '#general', in quotes, for a room; {e}")
    })
}
