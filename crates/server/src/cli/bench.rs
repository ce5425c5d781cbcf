//! `switchboard bench`.

use std::process::ExitCode;
use std::time::Duration;

use switchboard_bench::{BenchArgs, Product, SECRET};
use switchboard_protocol::UserId;

use super::output;
use crate::auth::Authenticator;
use crate::config::{AuthConfig, AuthKey, Secret};
use crate::store::{postgres, sqlite};

/// How long a token of a measurement lives: longer than any of them.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Measures this program, and prints what was found.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let key = Some(AuthKey::Secret(Secret::new(SECRET)?));
    let authenticator = Authenticator::new(&AuthConfig { key, ..AuthConfig::default() })?;
    let mint = |user: &str| Ok(authenticator.mint(&UserId::parse(user)?, LIFETIME)?);
    let product = Product {
        mint: &mint,
        schema: sqlite::SCHEMA,
        settings: sqlite::SETTINGS,
        shared_schema: postgres::SCHEMA,
    };
    output::line(&switchboard_bench::run(args, &product)?)?;
    Ok(ExitCode::SUCCESS)
}
