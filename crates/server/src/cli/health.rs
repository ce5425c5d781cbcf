//! `switchboard health`: the health check of a supervisor that has only this program, such as a container without a shell.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use rustls::{ClientConnection, StreamOwned};
use switchboard_store::tls_client::accepting_any_certificate;

use super::operator::{Response, loopback_if_unspecified, send};
use super::{FileArgs, environment, output};
use crate::config::{Config, Flags, Mode};

/// The time-out of connecting, writing and reading. It is longer than that of `/readyz` and of each step of `/healthz`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The most bytes that are read of a response.
const MAX_RESPONSE_BYTES: u64 = 4_096;

/// The flags of `health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The server's listen address [default: operator.listen if set, otherwise listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Check delivery in place of readiness: write, read and send a notice over the bus
    #[arg(long)]
    delivery: bool,
}

/// Probes the server on this machine that has this configuration.
pub(super) fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let flags = Flags { listen: args.listen.clone(), ..args.file.flags() };
    let config = Config::read(Mode::Serve, &flags, &environment())?;
    // Without --listen, prefer the operators' listener because it also answers while the other one is flooded.
    let listen = config.operator_listen.filter(|_| args.listen.is_none()).unwrap_or(config.listen);
    let address = loopback_if_unspecified(listen);
    let path = if args.delivery { "/healthz" } else { "/readyz" };
    let tls = config.tls.is_some() && listen == config.listen;
    let response = if tls {
        get_over_tls(address, path)
    } else {
        send(address, ("GET", path), "", "", (PROBE_TIMEOUT, MAX_RESPONSE_BYTES))
    };
    let response = response.with_context(|| format!("no response from {address}"))?;
    let (status, body) = (response.status, output::printable(&response.body));
    if status != "200" {
        bail!("{}: {status} {body}", if args.delivery { "delivery failed" } else { "not ready" });
    }
    output::print_line(&body)?;
    Ok(ExitCode::SUCCESS)
}

fn get_over_tls(address: SocketAddr, path: &str) -> std::io::Result<Response> {
    // The probe asks the server of its own machine by address, sends no secret, and only reports whether the server answers.
    let client = Arc::new(accepting_any_certificate().map_err(std::io::Error::other)?);
    let connection = ClientConnection::new(client, address.ip().into()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    let mut stream = StreamOwned::new(connection, stream);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    match stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response) {
        // The server closes TCP without the end of TLS.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && !response.is_empty() => {}
        read => drop(read?),
    }
    let response = String::from_utf8_lossy(&response);
    let status = response.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim()).to_owned();
    Ok(Response { status, body })
}
