//! `switchboard webhook`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::database::KeyDatabaseArgs;
use super::listen::ListenArgs;
use super::token::parse_ttl;
use super::{connect, listen, output};
use crate::webhooks::admin::{AddWebhook, Admin, ReplayWebhook, RotateWebhook, WebhookInfo, WebhookSecret};

/// The flags of `webhook`.
#[derive(Debug, Args)]
pub(super) struct WebhookArgs {
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// Sends entries of the feed to a URL, and prints the secret that signs them
    Add(Box<AddArgs>),
    /// Lists the webhooks, and where each stands
    List {
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Sends nothing more until it is resumed
    Pause(NameArgs),
    /// Goes on, and tries an endpoint at fault at once
    Resume(NameArgs),
    /// Gives a webhook another secret and prints it
    Rotate {
        /// The name of the webhook
        name: String,
        /// How long the secret of before signs as well, such as 24h
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        overlap: Option<Duration>,
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Sends entries again
    Replay {
        /// The name of the webhook
        name: String,
        /// From where on: a cursor of the feed, 0, or a time such as 2026-11-23T12:00:00.000Z
        #[arg(long, value_name = "CURSOR", conflicts_with = "parked", required_unless_present = "parked")]
        from: Option<String>,
        /// Only the entries that the endpoint did not take
        #[arg(long)]
        parked: bool,
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Sends an entry of the type webhook.test from this machine, and prints the answer
    Test(NameArgs),
    /// Removes a webhook
    Remove(NameArgs),
    /// Prints entries as a webhook would send them, and sends them on to a program that the server cannot reach
    Listen(Box<ListenArgs>),
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The name of the webhook
    name: String,
    #[command(flatten)]
    database: KeyDatabaseArgs,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The name of the webhook: 1 to 64 letters, digits, `-`, `_` and `.`
    name: String,
    /// The URL that gets the entries, by POST
    url: String,
    /// The types of entries [default: all but those of the audit log]
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    types: Vec<String>,
    /// Which conversations, such as '#support-*'; may be given again [default: all]
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Where it begins: now, 0, or a cursor of the feed
    #[arg(long, value_name = "CURSOR", default_value = "now")]
    from: String,
    /// A header of each request; may be given again
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Sends what was imported, too
    #[arg(long)]
    imported: bool,
    #[command(flatten)]
    database: KeyDatabaseArgs,
}

/// Adds, lists and changes webhooks.
pub(super) fn run(args: WebhookArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        WebhookCommand::Add(args) => {
            let AddArgs { name, url, types, only, from, headers, imported, database } = *args;
            let headers: BTreeMap<_, _> = headers.into_iter().collect();
            let (json, mut admin) = open(database)?;
            let secret = admin.add(AddWebhook { name, url, types, only, from, headers, imported }, None)?;
            show_secret(&secret, json)?;
        }
        WebhookCommand::List { database } => {
            let (json, mut admin) = open(database)?;
            for webhook in admin.list()? {
                output::print_line(&if json { to_json(&webhook)? } else { as_line(&webhook) })?;
            }
        }
        WebhookCommand::Pause(NameArgs { name, database }) => {
            let (json, mut admin) = open(database)?;
            admin.pause(&name)?;
            say("paused", &name, json)?;
        }
        WebhookCommand::Resume(NameArgs { name, database }) => {
            let (json, mut admin) = open(database)?;
            admin.resume(&name, None)?;
            say("resumed", &name, json)?;
        }
        WebhookCommand::Rotate { name, overlap, database } => {
            let overlap = u64::try_from(overlap.unwrap_or_default().as_millis());
            let (json, mut admin) = open(database)?;
            let overlap = overlap.context("--overlap is too long")?;
            show_secret(&admin.rotate(&RotateWebhook { name, overlap })?, json)?;
        }
        WebhookCommand::Replay { name, from, parked, database } => {
            let (json, mut admin) = open(database)?;
            admin.replay(&ReplayWebhook { name: name.clone(), from, parked })?;
            say("replays", &name, json)?;
        }
        WebhookCommand::Test(NameArgs { name, database }) => {
            let (_, mut admin) = open(database)?;
            let test = admin.prepare_test(&name)?;
            return connect::block_on(async move {
                output::print_line(test.send().await?.get())?;
                Ok(ExitCode::SUCCESS)
            });
        }
        WebhookCommand::Listen(args) => return connect::block_on(listen::run(*args)),
        WebhookCommand::Remove(NameArgs { name, database }) => {
            let (json, mut admin) = open(database)?;
            admin.remove(&name)?;
            say("removed", &name, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(database: KeyDatabaseArgs) -> anyhow::Result<(bool, Admin)> {
    let (json, config) = (database.json, database.config()?);
    Ok((json, Admin::open(&crate::key_store(&config), config.webhooks)?))
}

fn show_secret(secret: &WebhookSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::print_line(&to_json(secret)?);
    }
    output::eprint_line("the secret is shown only once; the back end verifies `webhook-signature` with it:");
    output::print_line(&secret.secret)
}

fn say(done: &str, name: &str, json: bool) -> anyhow::Result<()> {
    let text = if json {
        serde_json::json!({"name": name, "done": done}).to_string()
    } else {
        format!("{done} {name}")
    };
    output::print_line(&text)
}

fn to_json(value: &impl Serialize) -> anyhow::Result<String> {
    serde_json::to_string(value).context("cannot encode the answer as JSON")
}

fn as_line(webhook: &WebhookInfo) -> String {
    let state = match (&webhook.paused, webhook.failing_since) {
        (Some(why), _) => format!("paused ({})", output::printable(why)),
        (None, Some(since)) => format!("failing since {since}"),
        (None, None) => "active".to_owned(),
    };
    let mut line = format!("{}  {state}  {}", webhook.name, output::printable(&webhook.url));
    let mut add = |what: String| {
        line.push_str("  ");
        line.push_str(&what);
    };
    add(webhook.position.as_ref().map_or_else(|| "not begun".to_owned(), |at| format!("at {at}")));
    add(format!("lag {}", webhook.lag));
    webhook.next_try.iter().for_each(|at| add(format!("next try {at}")));
    webhook.node.iter().for_each(|node| add(format!("on {}", output::printable(node))));
    if !webhook.held.is_empty() {
        add(format!("{} held", webhook.held.len()));
    }
    if !webhook.parked.is_empty() {
        add(format!("{} parked", webhook.parked.len()));
    }
    line
}

fn parse_header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write a name, a colon and a value")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
