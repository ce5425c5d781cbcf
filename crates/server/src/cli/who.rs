//! `switchboard who` and `switchboard kick`: the connections of a running server.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use switchboard_protocol::{Device, Timestamp, UserId};
use uuid::Uuid;

use super::operator::{OperatorArgs, format_cell, format_table};
use super::output;
use switchboard_store::clock::Clock;

/// The flags of `who`.
#[derive(Debug, Args)]
pub(super) struct WhoArgs {
    /// The user; without it, the totals of the node and its slowest connections
    user: Option<UserId>,
    /// The most connections to list, up to 100
    #[arg(long, value_name = "NUMBER", conflicts_with = "user")]
    limit: Option<u32>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The flags of `kick`.
#[derive(Debug, Args)]
pub(super) struct KickArgs {
    /// The user whose connections are closed
    user: UserId,
    /// Only the connections of this device
    #[arg(long, value_parser = parse_device)]
    device: Option<Device>,
    /// Only this connection, by the id that `who` and the log show
    #[arg(long, value_name = "ID", conflicts_with = "device")]
    connection: Option<Uuid>,
    /// Why, for the log of the server
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

fn parse_device(text: &str) -> Result<Device, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

/// Lists connections.
pub(super) fn who(args: WhoArgs) -> anyhow::Result<ExitCode> {
    let json = args.operator.json;
    let parameters = [
        ("user", args.user.map(|user| user.to_string())),
        ("limit", args.limit.map(|limit| limit.to_string())),
    ];
    let answer = args.operator.client()?.get("/connections", &parameters)?;
    if json {
        output::print_line(&answer.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(totals) = answer.get("totals") {
        output::print_line(&format!(
            "node {}: {} connections of {} users; {} bytes wait in queues, {} events in the log\n",
            format_cell(&answer, "node"),
            totals["connections"],
            totals["users"],
            totals["waiting_bytes"],
            totals["lag_events"],
        ))?;
    }
    print_connections(&answer["connections"])?;
    warn_of_missing(&answer);
    Ok(ExitCode::SUCCESS)
}

/// Closes connections. Fails if there are none.
pub(super) fn kick(args: KickArgs) -> anyhow::Result<ExitCode> {
    let (json, user) = (args.operator.json, args.user);
    let body = json!({
        "user": user,
        "connection": args.connection,
        "device": args.device,
        "reason": args.reason,
    });
    let answer = args.operator.client()?.post("/connections/close", &body)?;
    let closed = answer["closed"].as_array().map_or(0, Vec::len);
    if json {
        output::print_line(&answer.to_string())?;
    } else {
        warn_of_missing(&answer);
        if closed == 0 {
            bail!("{user} has no such connection");
        }
        output::print_line(&format!("closed {closed} connections of {user}"))?;
    }
    Ok(if closed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn warn_of_missing(answer: &Value) {
    let missing = answer["nodes_without_answer"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().filter_map(Value::as_str).map(output::printable).collect();
        output::eprint_line(&format!("warning: no answer from {}", names.join(", ")));
    }
}

fn print_connections(connections: &Value) -> anyhow::Result<()> {
    let heading =
        ["USER", "NODE", "CONNECTION", "ADDRESS", "DEVICE", "SINCE", "IDLE", "WAITING", "LAG", "USER AGENT"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let now = Clock::system().now();
    for one in connections.as_array().into_iter().flatten() {
        let since = serde_json::from_value::<Timestamp>(one["since"].clone()).unwrap_or(now);
        let age = u64::try_from(now.as_millis().saturating_sub(since.as_millis())).unwrap_or_default();
        rows.push(vec![
            format_cell(one, "user"),
            format_cell(one, "node"),
            format_cell(one, "connection"),
            format_cell(one, "address"),
            format_cell(one, "device"),
            format!("{} ago", format_duration(age)),
            format_duration(one["idle_ms"].as_u64().unwrap_or_default()),
            format!("{} B in {} frames", one["waiting_bytes"], one["waiting_frames"]),
            format!("{} events in {}", one["lag_events"], one["lag_conversations"]),
            format_cell(one, "user_agent"),
        ]);
    }
    if rows.len() == 1 {
        return output::print_line("no connections");
    }
    output::print_line(&format_table(&rows))
}

/// A duration in its largest unit.
fn format_duration(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..86_400 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
