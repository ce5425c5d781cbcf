//! `switchboard health`: the health check of a supervisor that has only this program, such as a container without a shell.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

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
    let address = probe_address(listen);
    let path = if args.delivery { "/healthz" } else { "/readyz" };
    let response = get(address, path).with_context(|| format!("no response from {address}"))?;
    let status = response.split(' ').nth(1).unwrap_or_default();
    let body = output::printable(response.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim()));
    if status != "200" {
        bail!("{}: {status} {body}", if args.delivery { "delivery failed" } else { "not ready" });
    }
    output::print_line(&body)?;
    Ok(ExitCode::SUCCESS)
}

/// The address to connect to for a listen address: loopback instead of the unspecified address.
fn probe_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unspecified_address_is_probed_at_loopback() {
        for (listen, connected) in
            [("0.0.0.0:9501", "127.0.0.1:9501"), ("[::]:80", "[::1]:80"), ("10.0.0.1:9501", "10.0.0.1:9501")]
        {
            assert_eq!(probe_address(listen.parse().expect("an address")).to_string(), connected);
        }
    }
}
