//! `switchboard token`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use switchboard_protocol::UserId;

use super::{FileArgs, output};
use crate::auth::Authenticator;

/// The flags of `token`.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// The user's id
    user: UserId,
    /// Lifetime: a number and s, m, h or d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// As JSON, with the expiry time
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// Signs and prints a token.
pub(super) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let authenticator = Authenticator::new(&args.file.read()?.auth)?;
    let token = authenticator.mint(&args.user, args.ttl)?;
    if args.json {
        let expires = authenticator.verify(&token)?.expires;
        output::print_line(&json!({"user": args.user, "token": token, "expires": expires}).to_string())?;
    } else {
        output::print_line(&token)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn parse_ttl(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "write a number and a unit, such as 30s, 15m, 1h or 7d";
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(EXPECTED),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| EXPECTED)?;
    let seconds = number.checked_mul(unit).filter(|n| *n > 0).ok_or(EXPECTED)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_a_number_and_a_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "h", "0h", "1", "-1h", "1.5h", "1 h", "1y", "é", "99999999999999999d"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
