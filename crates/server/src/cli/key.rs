//! `switchboard key`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::database::KeyDatabaseArgs;
use super::output;
use crate::auth::ApiKey;
use switchboard_store::keys::{self, KeyStore};

/// The flags of `key`.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Creates a key and prints it once: only its hash is stored
    Create {
        /// The name of the key: 1 to 64 visible characters
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        database: KeyDatabaseArgs,
    },
    /// Lists the keys
    List {
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

/// Creates, lists or revokes keys.
pub(super) fn run(args: KeyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        KeyCommand::Create { name, database } => {
            let json = database.json;
            create(&name, &database.keys()?, json)?;
        }
        KeyCommand::List { database } => {
            let json = database.json;
            list(&database.keys()?, json)?;
        }
        KeyCommand::Revoke { name, database } => {
            let json = database.json;
            if !keys::revoke(&database.keys()?, &name)? {
                bail!("no active key is named {name:?}; `switchboard key list` shows all keys");
            }
            let text = if json {
                json!({"name": name, "revoked": true}).to_string()
            } else {
                format!("revoked {name}")
            };
            output::print_line(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(name: &str, store: &KeyStore, json: bool) -> anyhow::Result<()> {
    let key = ApiKey::generate()?;
    keys::create(store, name, &ApiKey::hash(key.expose()))?;
    if json {
        return output::print_line(&json!({"name": name, "key": key.expose()}).to_string());
    }
    output::eprint_line("the key is shown only once; it can act as any user, so keep it on servers:");
    output::print_line(key.expose())
}

fn list(store: &KeyStore, json: bool) -> anyhow::Result<()> {
    for key in keys::list(store)? {
        let text = if json {
            json!({"name": key.name, "created": key.created, "revoked": key.revoked}).to_string()
        } else {
            let state = if key.revoked { "revoked" } else { "active" };
            format!("{}  {state:<7}  {}", key.created, output::printable(&key.name))
        };
        output::print_line(&text)?;
    }
    Ok(())
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        return Err("a name has 1 to 64 visible characters");
    }
    Ok(text.to_owned())
}
