//! `switchboard key`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use switchboard_protocol::Timestamp;

use super::database::KeyDatabaseArgs;
use super::output;
use super::token::parse_ttl;
use crate::auth::ApiKey;
use crate::config::Network;
use switchboard_store::clock::Clock;
use switchboard_store::grant::{Scope, Scopes, UserPattern};
use switchboard_store::keys::{self, ApiKeyInfo, NewKey};

/// The flags of `key`.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Creates a key and prints it once: only its hash is stored
    Create(Box<CreateArgs>),
    /// Lists the keys, and what each may do
    List {
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Gives a key another secret and prints it once
    Rotate {
        /// The name of the key
        name: String,
        /// How long the secret of before is still good, such as 24h
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        overlap: Option<Duration>,
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Revokes a key: the server refuses it from then on
    Revoke {
        /// The name of the key
        name: String,
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The name of the key: 1 to 64 visible characters
    #[arg(value_parser = parse_name)]
    name: String,
    /// What the key may do: act (commands as users), feed, people, moderate, admin (all of it)
    #[arg(long = "scope", value_name = "SCOPE,…", value_delimiter = ',', default_value = "act")]
    scopes: Vec<Scope>,
    /// The users whom the key acts for, such as 'shop-*' [default: all]
    #[arg(long = "as", value_name = "PATTERN")]
    acts_as: Option<UserPattern>,
    /// When the key expires, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    expires: Option<Duration>,
    /// How many writes a second the key may make [default: limits.sends_per_key]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// A network from which the key may be used, such as 192.0.2.0/24; may be given again [default: all]
    #[arg(long = "address", value_name = "NETWORK")]
    addresses: Vec<Network>,
    /// Events come without `text`, `data` and `files`
    #[arg(long)]
    no_text: bool,
    /// Hooks are not asked about what the key writes
    #[arg(long)]
    unasked: bool,
    #[command(flatten)]
    database: KeyDatabaseArgs,
}

/// Creates, lists, rotates or revokes keys.
pub(super) fn run(args: KeyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        KeyCommand::Create(args) => create(*args)?,
        KeyCommand::List { database } => list(database)?,
        KeyCommand::Rotate { name, overlap, database } => {
            rotate(&name, overlap.unwrap_or_default(), database)?;
        }
        KeyCommand::Revoke { name, database } => {
            let json = database.json;
            let Some(paused) = keys::revoke(&database.key_store()?, &name)? else {
                bail!("no active key is named {name:?}; `switchboard key list` shows all keys");
            };
            let text = if json {
                json!({"name": name, "revoked": true, "paused": paused}).to_string()
            } else if paused.is_empty() {
                format!("revoked {name}")
            } else {
                format!("revoked {name}, and paused the webhooks that it added: {}", paused.join(", "))
            };
            output::print_line(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: CreateArgs) -> anyhow::Result<()> {
    let (json, secret) = (args.database.json, ApiKey::generate()?);
    let expires = args.expires.map(expiry).transpose()?;
    if args.no_text && [Scope::Act, Scope::Admin].iter().any(|scope| args.scopes.contains(scope)) {
        bail!(
            "--no-text does not go with the scopes act and admin, because such a key reads every conversation as its members"
        );
    }
    let networks: Vec<_> = args.addresses.iter().map(ToString::to_string).collect();
    let key = NewKey {
        acts_as: args.acts_as,
        expires,
        rate: args.rate,
        addresses: (!networks.is_empty()).then(|| networks.join(",")),
        no_text: args.no_text,
        unasked: args.unasked,
        ..NewKey::new(args.name, ApiKey::hash(secret.expose())).with_scopes(args.scopes)
    };
    keys::create(&args.database.key_store()?, &key)?;
    let whom = key.acts_as.as_ref().map_or("any user", UserPattern::as_str);
    let may = if key.scopes.allow(Scope::Act) { format!("it can act as {whom}, so ") } else { String::new() };
    show_secret(&key.name, &secret, &may, json)
}

fn rotate(name: &str, overlap: Duration, database: KeyDatabaseArgs) -> anyhow::Result<()> {
    let (json, secret) = (database.json, ApiKey::generate()?);
    let overlap = i64::try_from(overlap.as_millis()).context("--overlap is too long")?;
    if !keys::rotate(&database.key_store()?, name, &ApiKey::hash(secret.expose()), overlap)? {
        bail!("no active key is named {name:?}; `switchboard key list` shows all keys");
    }
    show_secret(name, &secret, "", json)
}

fn show_secret(name: &str, secret: &ApiKey, may: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return output::print_line(&json!({"name": name, "key": secret.expose()}).to_string());
    }
    output::eprint_line(&format!("the key is shown only once; {may}keep it on servers:"));
    output::print_line(secret.expose())
}

fn expiry(after: Duration) -> anyhow::Result<Timestamp> {
    let after = i64::try_from(after.as_millis()).ok();
    let at = after.and_then(|after| Clock::system().now().as_millis().checked_add(after));
    at.map(Timestamp::from_millis).context("--expires is too far away")
}

fn list(database: KeyDatabaseArgs) -> anyhow::Result<()> {
    let json = database.json;
    for key in keys::list(&database.key_store()?)? {
        output::print_line(&if json { as_json(&key) } else { as_line(&key) })?;
    }
    Ok(())
}

fn as_json(key: &ApiKeyInfo) -> String {
    let ApiKeyInfo { name, created, revoked, acts_as, expires, rate, no_text, unasked, parent, used, .. } =
        key;
    let addresses: Vec<_> = key.addresses.iter().flat_map(|networks| networks.split(',')).collect();
    json!({
        "name": name, "created": created, "revoked": revoked, "scopes": key.scopes.names(), "as": acts_as,
        "expires": expires, "rate": rate, "addresses": addresses, "no_text": no_text, "unasked": unasked,
        "parent": parent, "used": used, "old_until": key.old_until,
    })
    .to_string()
}

/// Prints times in whole seconds, because a person reads them.
fn as_line(key: &ApiKeyInfo) -> String {
    let state = match key.expires {
        _ if key.revoked => "revoked",
        Some(expires) if expires <= Clock::system().now() => "expired",
        _ => "active",
    };
    let mut line = format!(
        "{}  {state:<7}  {}  {}",
        key.created,
        output::printable(&key.name),
        describe_scopes(&key.scopes)
    );
    let mut add = |what: String| {
        line.push_str("  ");
        line.push_str(&what);
    };
    key.acts_as.iter().for_each(|pattern| add(format!("as {pattern}")));
    key.addresses.iter().for_each(|networks| add(format!("from {networks}")));
    key.rate.iter().for_each(|rate| add(format!("{rate}/s")));
    key.expires.iter().for_each(|at| add(format!("expires {at}")));
    key.old_until.iter().for_each(|at| add(format!("rotated, old secret until {at}")));
    if key.no_text {
        add("no text".to_owned());
    }
    if key.unasked {
        add("unasked".to_owned());
    }
    key.parent.iter().for_each(|parent| add(format!("made by {}", output::printable(parent))));
    add(key.used.map_or_else(|| "never used".to_owned(), |hour| format!("last used {hour}")));
    line
}

/// The scopes in words. A key of an earlier version can also revoke.
fn describe_scopes(scopes: &Scopes) -> String {
    if scopes.names().contains(&Scope::Revoke.as_str()) {
        format!("{scopes} (a key of an earlier version)")
    } else {
        scopes.to_string()
    }
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        return Err("a name has 1 to 64 visible characters");
    }
    Ok(text.to_owned())
}
