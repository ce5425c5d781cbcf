//! `switchboard bench`.

use std::process::ExitCode;
use std::time::Duration;

use switchboard_bench::{BenchArgs, Product, SECRET};
use switchboard_protocol::UserId;

use super::output;
use crate::auth::Authenticator;
use crate::config::{AuthConfig, AuthKey, Secret};
use switchboard_store::{postgres, sqlite};

/// Lifetime of the benchmark's tokens: longer than any benchmark.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// Runs the benchmark and prints its results.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    let key = Some(AuthKey::Secret(Secret::new(SECRET)?));
    let authenticator = Authenticator::new(&AuthConfig { key, ..AuthConfig::default() })?;
    let mint = |user: &str| Ok(authenticator.mint(&UserId::parse(user)?, TOKEN_LIFETIME)?);
    let product = Product {
        mint: &mint,
        schema: sqlite::SCHEMA,
        settings: sqlite::SETTINGS,
        shared_schema: postgres::SCHEMA,
    };
    output::print_line(&switchboard_bench::run(args, &product)?)?;
    Ok(ExitCode::SUCCESS)
}
