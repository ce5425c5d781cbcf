//! `switchboard feed`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::database::KeyDatabaseArgs;
use super::output;
use switchboard_store::keys;

/// The flags of `feed`.
#[derive(Debug, Args)]
pub(super) struct FeedArgs {
    #[command(subcommand)]
    command: FeedCommand,
}

#[derive(Debug, Subcommand)]
enum FeedCommand {
    /// Begins a new epoch: a step of restoring a database, after which every cursor of before is refused
    NewEpoch {
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
}

/// Begins a new epoch of the feed.
pub(super) fn run(args: FeedArgs) -> anyhow::Result<ExitCode> {
    let FeedCommand::NewEpoch { database } = args.command;
    let json = database.json;
    keys::begin_feed_epoch(&database.key_store()?)?;
    let text =
        if json { json!({"new_epoch": true}).to_string() } else { "the feed has a new epoch".to_owned() };
    output::print_line(&text)?;
    Ok(ExitCode::SUCCESS)
}
