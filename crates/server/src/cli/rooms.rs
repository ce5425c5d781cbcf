//! `switchboard rooms` and `switchboard sizes`: what a running server stores.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::operator::{OperatorArgs, format_cell, format_table};
use super::output;

/// The flags of `rooms`.
#[derive(Debug, Args)]
pub(super) struct RoomsArgs {
    /// The order
    #[arg(long, value_enum, default_value = "members")]
    by: RoomOrderArg,
    /// With `--by name`: the page after this room
    #[arg(long, value_name = "ROOM")]
    after: Option<String>,
    /// The most rooms to list, up to 100
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// The order of the rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoomOrderArg {
    /// The most members first
    Members,
    /// The most events first
    Events,
    /// The latest event first
    Recent,
    /// By name, page by page
    Name,
}

/// The flags of `sizes`.
#[derive(Debug, Args)]
pub(super) struct SizesArgs {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Lists rooms.
pub(super) fn rooms(args: RoomsArgs) -> anyhow::Result<ExitCode> {
    let json = args.operator.json;
    let by = args.by.to_possible_value().map(|value| value.get_name().to_owned());
    let parameters =
        [("by", by), ("after", args.after), ("limit", args.limit.map(|limit| limit.to_string()))];
    let answer = args.operator.client()?.get("/rooms", &parameters)?;
    if json {
        output::print_line(&answer.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows =
        vec![heading_row(&["ROOM", "MEMBERS", "ONLINE HERE", "MESSAGES", "LAST SEQ", "LAST EVENT", "TITLE"])];
    for room in answer["rooms"].as_array().into_iter().flatten() {
        let fields = ["name", "members", "online_here", "messages", "last_seq", "last_event", "title"];
        rows.push(fields.map(|field| format_cell(room, field)).to_vec());
    }
    output::print_line(&format_table(&rows))?;
    if answer["more"] == true {
        output::eprint_line("there are more rooms");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints sizes.
pub(super) fn sizes(args: SizesArgs) -> anyhow::Result<ExitCode> {
    let json = args.operator.json;
    let answer = args.operator.client()?.get("/sizes", &[])?;
    if json {
        output::print_line(&answer.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let database = &answer["database"];
    let mut totals = vec![
        vec!["database".to_owned(), format_bytes(&database["database_bytes"])],
        vec!["write-ahead log".to_owned(), format_bytes(&database["wal_bytes"])],
        vec![format!("memory of {}", format_cell(&answer, "node")), format_bytes(&answer["memory_bytes"])],
    ];
    totals.retain(|row| row[1] != "-");
    output::print_line(&format_table(&totals))?;
    let mut tables = vec![heading_row(&["TABLE", "ROWS", "SIZE"])];
    for one in database["tables"].as_array().into_iter().flatten() {
        tables.push(vec![format_cell(one, "name"), format_cell(one, "rows"), format_bytes(&one["bytes"])]);
    }
    output::print_line(&format!("\n{}", format_table(&tables)))?;
    let mut largest = vec![heading_row(&["CONVERSATION", "EVENTS", "MESSAGES"])];
    for one in database["largest_conversations"].as_array().into_iter().flatten() {
        largest.push(["name", "events", "messages"].map(|field| format_cell(one, field)).to_vec());
    }
    output::print_line(&format!("\n{}", format_table(&largest)))?;
    Ok(ExitCode::SUCCESS)
}

fn heading_row(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A number of bytes in a unit of at most four digits.
fn format_bytes(value: &Value) -> String {
    let Some(mut number) = value.as_u64() else { return "-".to_owned() };
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if number < 10_000 {
            return format!("{number} {unit}");
        }
        number /= 1_024;
    }
    format!("{number} TiB")
}
