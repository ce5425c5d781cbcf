//! The command line: its definition and the dispatch to the subcommands. Data goes to stdout, messages for a person to stderr.

mod audit;
mod backup;
mod check;
mod completions;
mod config;
mod config_check;
mod connect;
mod database;
mod descriptors;
mod feed;
mod health;
mod import;
mod key;
mod listen;
mod migrate_store;
mod operator;
mod output;
mod remote;
mod rooms;
mod send;
mod serve;
mod show;
mod tail;
mod token;
mod webhook;
mod who;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flags, Mode};

/// A message router that stores before it acknowledges, and forgets nothing.
#[derive(Debug, Parser)]
#[command(name = "switchboard", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server.
    Serve(ServerArgs),
    /// Runs a server for trying things out: on this machine only, without authentication.
    Dev(ServerArgs),
    /// Signs a token for a user with the configured secret.
    Token(token::TokenArgs),
    /// Creates, lists and revokes the API keys of back ends.
    Key(key::KeyArgs),
    /// Prints the audit log: what was changed, by which key, from which address.
    Audit(audit::AuditArgs),
    /// The feed of what is committed
    Feed(feed::FeedArgs),
    /// Sends the feed to the URLs of back ends.
    Webhook(webhook::WebhookArgs),
    /// Sends a message.
    Send(send::SendArgs),
    /// Prints events as they arrive, one per line.
    Tail(tail::TailArgs),
    /// Sends the history of another system to a running server: JSON Lines, CSV, or an export. Resumes an interrupted run.
    Import(Box<import::ImportArgs>),
    /// Copies the database to a file, also while a server runs.
    Backup(backup::BackupArgs),
    /// Verifies a database, also while a server runs: exits with 1 if something is wrong.
    Check(check::CheckArgs),
    /// Copies an installation from SQLite to PostgreSQL and compares every row. Resumes an interrupted run.
    MigrateStore(migrate_store::MigrateStoreArgs),
    /// Checks whether the server on this machine is ready.
    Health(health::HealthArgs),
    /// Lists the connections of a user on all nodes, or the slowest ones of a node.
    Who(who::WhoArgs),
    /// Closes the connections of a user on all nodes. Their clients may reconnect.
    Kick(who::KickArgs),
    /// Lists the largest, busiest or latest rooms.
    Rooms(rooms::RoomsArgs),
    /// Shows the sizes of the database, its tables and the largest conversations.
    Sizes(rooms::SizesArgs),
    /// Checks and shows the configuration.
    Config(config::ConfigArgs),
    /// Prints the completions for a shell.
    Completions(completions::CompletionsArgs),
}

/// The flags of the commands that run a server.
#[derive(Debug, Args)]
struct ServerArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The name of the node in the log and the metrics [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// The address to listen on [default: 127.0.0.1:9501]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// A separate address for probes and metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    operator_listen: Option<String>,
    /// The directory of the database [default: ./data]
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<String>,
    /// The PostgreSQL database that several nodes share, in place of a directory; SWITCHBOARD_STORE or SWITCHBOARD_STORE_FILE
    /// keep its password out of the process list
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    store: Option<String>,
    /// The NATS servers between the nodes; SWITCHBOARD_BUS or SWITCHBOARD_BUS_FILE keep their password out of the process list
    #[arg(long, value_name = "URL")]
    bus: Option<String>,
}

impl ServerArgs {
    fn flags(self) -> Flags {
        let Self { file, name, listen, operator_listen, data, store, bus } = self;
        Flags { name, listen, operator_listen, data, store, bus, ..file.flags() }
    }
}

/// The flag of the commands that read the configuration.
#[derive(Debug, Args)]
struct FileArgs {
    /// The configuration file, in TOML
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CONFIG")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn flags(self) -> Flags {
        // An empty variable counts as unset, like every other variable.
        Flags { config: self.config.filter(|path| !path.as_os_str().is_empty()), ..Flags::default() }
    }

    /// Reads the configuration for a command that runs no server.
    fn read(self) -> anyhow::Result<Config> {
        Ok(Config::read(Mode::Serve, &self.flags(), &environment())?)
    }
}

/// The environment variables whose names are UTF-8, as the names of all settings are.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
}

/// Runs the program. Exit codes: 0 for success, 1 for failure, 2 for a command line that cannot be parsed, 70 if a critical
/// task of the server has failed, 130 after a second signal.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        // The reader of our output closed the pipe, as `head` does. This is no failure.
        Err(error) if error.is::<output::StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::eprint_line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => Ok(serve::run(Mode::Serve, &args.flags())),
        Command::Dev(args) => Ok(serve::run(Mode::Dev, &args.flags())),
        Command::Token(args) => token::run(args),
        Command::Key(args) => key::run(args),
        Command::Audit(args) => connect::block_on(audit::run(args)),
        Command::Feed(args) => feed::run(args),
        Command::Webhook(args) => webhook::run(args),
        Command::Send(args) => connect::block_on(send::run(args)),
        Command::Tail(args) => connect::block_on(tail::run(args)),
        Command::Import(args) => connect::block_on(import::run(*args)),
        Command::Backup(args) => backup::run(args),
        Command::Check(args) => check::run(args),
        Command::MigrateStore(args) => migrate_store::run(args),
        Command::Health(args) => health::run(args),
        Command::Who(args) => who::who(args),
        Command::Kick(args) => who::kick(args),
        Command::Rooms(args) => rooms::rooms(args),
        Command::Sizes(args) => rooms::sizes(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_clap_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_command_lines_parse_and_incomplete_ones_do_not() {
        for line in [
            "serve --config x.toml --listen 0.0.0.0:9501 --data /d",
            "serve --operator-listen 0.0.0.0:9502",
            "dev --name chat-1",
            "token alice --ttl 90m --json",
            "key create billing",
            "feed new-epoch --store postgres://x",
            "webhook add shop https://shop.example/ --types message --only #support-* --header x-a:1",
            "webhook list --json",
            "webhook rotate shop --overlap 24h",
            "webhook replay shop --parked",
            "webhook remove shop",
            "webhook listen --types message --forward http://127.0.0.1:8000/chat",
            "key list --json",
            "key revoke billing",
            "send @bob hi --user alice",
            "send #general --data-json {\"a\":1} --key k1 --token t",
            "send @bob --json -- -1",
            "tail",
            "tail #general @alice:bob @bob --after 41 --json",
            "config check",
            "config check --offline",
            "config show --json",
            "config default",
            "completions bash",
            "health --listen 0.0.0.0:9501",
            "who",
            "who alice --json",
            "who --limit 5 --operator-listen 127.0.0.1:9502",
            "kick alice --device phone --reason flood",
            "rooms --by name --after #general",
            "sizes",
            "import history.jsonl --key-file k",
            "import messages.csv --csv --columns to=room,text=body --create-rooms",
            "import export --from slack --users users.csv --dry-run",
            "import - --rejects bad.jsonl --chunk 1000 --json",
            "backup /backup/a.db --data /d --force --json",
            "check",
            "check /backup/a.db --json",
            "check --data /d",
        ] {
            let words = std::iter::once("switchboard").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "",
            "send bob hi",
            "send @bob",
            "tail general",
            "tail --after 3",
            "token alice --ttl 0s",
            "key create",
            "kick",
            "kick alice --device phone --connection 0198c0de-0000-7000-8000-000000000000",
            "rooms --by size",
            "import",
            "import a.csv --csv --from slack",
            "import a.jsonl --chunk 1001",
            "import a.jsonl --columns to=room",
            "backup",
            "check a.db --data /d",
        ] {
            let words = std::iter::once("switchboard").chain(line.split(' ').filter(|w| !w.is_empty()));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
