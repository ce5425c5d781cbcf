//! The common part of `send` and `tail`: the user as whom they act, and the server to which they connect.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use switchboard_client::{Client, ClientError, Trust};
use switchboard_protocol::reply::{Failure, Reply, Welcome};
use switchboard_protocol::{Event, Hello, Seq, Target, UserId};

use super::output;

/// The flags of the commands that connect to a server.
#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// The server's WebSocket
    #[arg(long, default_value = "ws://127.0.0.1:9501/v1/ws")]
    pub(super) url: String,
    /// A file with the CA certificates, in PEM, that verify a wss:// server [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Print frames as JSON, as on the wire
    #[arg(long)]
    pub(super) json: bool,
}

/// The user to act as. A flag overrides the environment.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct IdentityArgs {
    /// A user's token; SWITCHBOARD_TOKEN or --token-file keep it out of the process list
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
    /// Connects and waits for `welcome`.
    pub(super) async fn connect(
        &self,
        hello: Hello,
    ) -> anyhow::Result<Result<(Client, Welcome), ClientError>> {
        let Some(ca) = &self.ca else { return Ok(Client::connect(&self.url, hello).await) };
        let trust = Trust::from_file(ca);
        let trust = trust.with_context(|| format!("cannot read CA certificates from {}", ca.display()))?;
        Ok(Client::connect_trusting(&self.url, hello, &trust).await)
    }

    /// Makes `hello`, the first frame of a connection.
    ///
    /// # Errors
    /// Neither a flag nor the environment names a user.
    pub(super) fn hello(&self) -> anyhow::Result<Hello> {
        let from_env = || std::env::var("SWITCHBOARD_TOKEN").ok().filter(|token| !token.is_empty());
        let token = match &self.identity {
            IdentityArgs { user: Some(_), .. } => None,
            IdentityArgs { token: Some(token), .. } => Some(token.clone()),
            IdentityArgs { token_file: Some(path), .. } => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read {}", path.display()))?)
            }
            _ => match from_env() {
                Some(token) => Some(token),
                None => bail!(
                    "no user given: set SWITCHBOARD_TOKEN to a token (`switchboard token alice` signs one), or pass \
                     `--user alice` to a `switchboard dev` server"
                ),
            },
        };
        let token = token.map(|token| token.trim().to_owned());
        Ok(Hello {
            token,
            user: self.identity.user.clone(),
            device: None,
            cursors: std::collections::BTreeMap::new(),
        })
    }
}

/// Runs a client on one thread.
pub(super) fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(work)
}

/// Reports an error: with `--json` an `error` frame on stdout, otherwise a line on stderr.
pub(super) fn report_error(error: ClientError, json: bool) -> anyhow::Result<ExitCode> {
    match error {
        ClientError::Refused(failure) if json => output::print_line(&to_json(&Reply::Error(*failure))?)?,
        ClientError::Refused(failure) => {
            output::eprint_line(&format!("error: {}", describe_failure(&failure)));
        }
        other => return Err(other.into()),
    }
    Ok(ExitCode::FAILURE)
}

/// Describes a refusal for a person.
pub(super) fn describe_failure(failure: &Failure) -> String {
    let code = failure.code.as_str();
    let wait = failure.retry_after.map_or_else(String::new, |ms| format!(" (wait {ms} ms)"));
    format!("{code}: {}{wait}", output::printable(&failure.message))
}

/// Encodes a frame as JSON, as on the wire.
pub(super) fn to_json(reply: &Reply<Event>) -> anyhow::Result<String> {
    serde_json::to_string(reply).context("cannot encode a frame as JSON")
}

/// Parses an argument that is an event number, at most 2^53 - 1.
pub(super) fn parse_seq(text: &str) -> Result<Seq, &'static str> {
    serde_json::from_str(text).map_err(|_| "write the number of an event, at most 2^53 - 1")
}

/// Parses an argument that is a destination: `@bob`, `#general` or `@alice:bob`.
pub(super) fn parse_target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|e| {
        // The shell reads an unquoted # as the start of a comment, so room names often arrive without it.
        format!("write @bob for a user or '#general', in quotes, for a room; {e}")
    })
}
