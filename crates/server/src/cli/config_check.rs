//! `switchboard config check`: tries what `serve` would do, without serving or changing anything.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::operator::{loopback_if_unspecified, send};
use super::{descriptors, output, serve};
use crate::auth::Authenticator;
use crate::config::Config;
use crate::http::listen_for_operators;
use switchboard_store::clock::Clock;

/// The time-out of a request to a server that already listens on the address.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The most bytes of the response to that request.
const MAX_RESPONSE_BYTES: u64 = 4_096;

/// The lines that have been printed.
struct CheckReport {
    failed: u32,
}

impl CheckReport {
    /// Prints a line about one part.
    fn print_result(&mut self, part: impl Display, result: anyhow::Result<String>) -> anyhow::Result<()> {
        let line = match result {
            Ok(found) => format!("ok       {part}: {found}"),
            Err(error) => {
                self.failed += 1;
                format!("FAILED   {part}: {error:#}")
            }
        };
        output::print_line(&output::printable(&line))
    }
}

/// Tries each part that `serve` needs, and prints a line for each.
///
/// # Errors
/// A part failed.
pub(super) fn try_all_parts(config: &Config) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let mut report = CheckReport { failed: 0 };
    check_tokens(config, &runtime, &mut report)?;
    if let Some(tls) = &config.tls {
        let checked = crate::tls::check(tls, &Clock::system());
        report.print_result("tls", checked.map(|()| "the certificate can be used".to_owned()))?;
    }
    if let Some(hooks) = &config.hooks {
        let checked = crate::hooks::check(hooks);
        report.print_result(
            "hooks",
            checked.map(|()| "the hook can be asked; this did not ask it".to_owned()),
        )?;
        for (asked, unasked) in crate::hooks::ways_round(hooks) {
            let (asked, unasked) = (asked.as_str(), unasked.as_str());
            let message =
                format!("it is asked about `{asked}` and not about `{unasked}`, which has the same effect");
            report.print_result("hooks", Ok(message))?;
        }
    }
    let within = runtime.enter();
    report.print_result("listen", try_listen(config.listen, |address| serve::bind(address).map(drop)))?;
    if let Some(operators) = config.operator_listen {
        let listen = |address| Ok(listen_for_operators(address).map(drop)?);
        report.print_result("operator.listen", try_listen(operators, listen))?;
    }
    drop(within);
    match descriptors::descriptor_shortage(config) {
        None => {
            report.print_result(
                "descriptors",
                Ok(format!("enough for {} connections", config.limits.connections)),
            )?;
        }
        Some((files, fits)) => output::print_line(&format!(
            "WARNING  descriptors: the limit of {files} open files lowers limits.connections from {} to {fits}",
            config.limits.connections
        ))?,
    }
    let store = if config.cluster.is_some() { "store" } else { "data" };
    report.print_result(store, try_store(config))?;
    if let Some(bus) = config.cluster.as_ref().and_then(|cluster| cluster.bus.as_ref()) {
        let connected = runtime.block_on(crate::try_bus(config));
        report.print_result("bus", connected.map(|()| format!("connected to {bus}")))?;
    }
    if report.failed > 0 {
        bail!("`serve` would not work with this configuration: {} of the lines above FAILED", report.failed);
    }
    Ok(())
}

/// Checks the keys that verify tokens, and fetches those that issuers publish.
fn check_tokens(
    config: &Config,
    runtime: &tokio::runtime::Runtime,
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    match Authenticator::new(&config.auth) {
        Err(error) => report.print_result("auth", Err(error.into()))?,
        Ok(authenticator) => {
            report.print_result("auth", Ok("tokens can be verified".to_owned()))?;
            for provider in authenticator.providers() {
                let fetched = runtime.block_on(provider.fetch()).map_err(anyhow::Error::msg);
                let (issuer, keys) = (provider.issuer(), fetched.map(|keys| format!("{keys} keys")));
                report.print_result(format_args!("auth.issuers, {issuer}"), keys)?;
            }
        }
    }
    if config.auth.max_token_age.is_zero() {
        output::print_line(
            "WARNING  auth.max_token_age: a token is good until its `exp`, however late; 2592000000 limits it to 30 days",
        )?;
    }
    Ok(())
}

/// Tries to listen on an address. An address that another server of this program uses is fine, because a check often runs before
/// that server is replaced.
fn try_listen(
    address: SocketAddr,
    listen: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let Err(error) = listen(address) else { return Ok(format!("{address} is free")) };
    let in_use =
        error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) == Some(ErrorKind::AddrInUse);
    let probe = || {
        send(loopback_if_unspecified(address), ("GET", "/livez"), "", "", (PROBE_TIMEOUT, MAX_RESPONSE_BYTES))
    };
    if in_use && probe().is_ok_and(|response| response.status == "200" && response.body == "alive") {
        return Ok(format!("a running switchboard server has {address}"));
    }
    Err(error)
}

/// Opens the database for reading.
fn try_store(config: &Config) -> anyhow::Result<String> {
    if config.cluster.is_none() {
        super::config::check_directory(&config.data)?;
    }
    crate::inspector(config).try_open()
}
