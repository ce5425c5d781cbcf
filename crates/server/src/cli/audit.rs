//! `switchboard audit`: the audit log, which is a part of the feed.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};

use super::output;
use super::remote::RemoteArgs;
use crate::webhooks::listen::{Listen, Listener};

/// The types of the audit log.
const TYPES: [&str; 10] = [
    "audit.ban",
    "audit.delete_room",
    "audit.erase",
    "audit.export",
    "audit.import",
    "audit.key",
    "audit.read",
    "audit.rename",
    "audit.report",
    "audit.revoke",
];

/// The fields of an entry that have a place of their own in its line.
const NAMED_FIELDS: [&str; 5] = ["id", "type", "at", "via", "address"];

/// The flags of `audit`.
#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    /// Where it begins: 0, now, or a cursor of the feed, such as the `id` of the last entry that was read
    #[arg(long, value_name = "CURSOR", default_value = "0")]
    from: String,
    /// Waits for new entries, until the process is interrupted
    #[arg(long)]
    follow: bool,
    /// Prints each entry as JSON, as it is in the feed
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Prints the audit log, an entry a line.
pub(super) async fn run(args: AuditArgs) -> anyhow::Result<ExitCode> {
    let AuditArgs { from, follow, json, remote } = args;
    let listen = Listen {
        server: &remote.url,
        key: remote.key()?,
        ca: remote.ca.as_deref(),
        types: TYPES.map(str::to_owned).to_vec(),
        only: Vec::new(),
        from,
        follow,
        forward: None,
        secret: None,
    };
    let (mut listener, _) = Listener::new(listen)?;
    let read = super::listen::until_the_end(&mut listener, async |_, entry| {
        let line = if json { entry.get().to_owned() } else { as_line(entry.get())? };
        output::print_line(&line)
    });
    read.await.with_context(|| format!("cannot read the audit log of {}", remote.url))?;
    Ok(ExitCode::SUCCESS)
}

/// An entry for a person: when, what, by which key from which address, and its other fields.
fn as_line(entry: &str) -> anyhow::Result<String> {
    let entry: Map<String, Value> = serde_json::from_str(entry).context("an entry of the feed")?;
    let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("-");
    let mut line = format!("{} {} by {} from {}", field("at"), field("type"), field("via"), field("address"));
    for (name, value) in entry.iter().filter(|(name, _)| !NAMED_FIELDS.contains(&name.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line.push_str(&format!(" {name}={value}"));
    }
    Ok(output::printable(&line))
}
