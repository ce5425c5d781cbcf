//! `switchboard key`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output;
use super::place::KeyPlace;
use crate::auth::ApiKey;
use crate::store::keys::{self, KeyStore};

/// The flags of `key`.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes a key and prints it, once: only its hash is kept
    Create {
        /// What to call it: 1 to 64 visible characters
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        place: KeyPlace,
    },
    /// Lists the keys
    List {
        #[command(flatten)]
        place: KeyPlace,
    },
    /// Revokes a key: from then on it is refused
    Revoke {
        /// What it is called
        name: String,
        #[command(flatten)]
        place: KeyPlace,
    },
}

/// Makes, lists or revokes.
pub(super) fn run(args: KeyArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Create { name, place } => {
            let json = place.json;
            create(&name, &place.keys()?, json)?;
        }
        What::List { place } => {
            let json = place.json;
            list(&place.keys()?, json)?;
        }
        What::Revoke { name, place } => {
            let json = place.json;
            if !keys::revoke(&place.keys()?, &name)? {
                bail!("there is no key {name:?} that could be revoked; `switchboard key list` shows them");
            }
            let text = if json {
                json!({"name": name, "revoked": true}).to_string()
            } else {
                format!("revoked {name}")
            };
            output::line(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(name: &str, store: &KeyStore, json: bool) -> anyhow::Result<()> {
    let key = ApiKey::generate()?;
    keys::create(store, name, &ApiKey::hash(key.expose()))?;
    if json {
        return output::line(&json!({"name": name, "key": key.expose()}).to_string());
    }
    output::note("this is the only time that the key is shown; it acts for any user, so keep it on servers:");
    output::line(key.expose())
}

fn list(store: &KeyStore, json: bool) -> anyhow::Result<()> {
    for key in keys::list(store)? {
        let text = if json {
            json!({"name": key.name, "created": key.created, "revoked": key.revoked}).to_string()
        } else {
            let state = if key.revoked { "revoked" } else { "active" };
            format!("{}  {state:<7}  {}", key.created, output::printable(&key.name))
        };
        output::line(&text)?;
    }
    Ok(())
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        return Err("a name has 1 to 64 visible characters");
    }
    Ok(text.to_owned())
}
