//! `switchboard health`: for a supervisor that has nothing but this program, as a container without a shell.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{FileArgs, environment, output};
use crate::config::{Config, Flags, Mode};

/// A little more than `/readyz` gives the database, and `/healthz` each of its steps.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of an answer that are looked at.
const ANSWER: u64 = 4_096;

/// The flags of `health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The address that the server listens on [default: operator.listen if it is set, or else listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Whether a message would arrive: writes, reads and sends a notice over the bus, in place of asking whether it is ready
    #[arg(long)]
    delivery: bool,
}

/// Asks the server of this configuration, on this machine, whether it is ready.
pub(super) fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let flags = Flags { listen: args.listen.clone(), ..args.file.flags() };
    let config = Config::read(Mode::Serve, &flags, &environment())?;
    // The operators' listener answers during floods of the other one, unless it is asked for by its address.
    let listen = config.operator_listen.filter(|_| args.listen.is_none()).unwrap_or(config.listen);
    let address = reachable(listen);
    let path = if args.delivery { "/healthz" } else { "/readyz" };
    let answer = ask(address, path).with_context(|| format!("no answer from {address}"))?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let body = output::printable(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim()));
    if status != "200" {
        bail!("{}: {status} {body}", if args.delivery { "messages do not arrive" } else { "not ready" });
    }
    output::line(&body)?;
    Ok(ExitCode::SUCCESS)
}

/// Where a server that listens there is found: "all addresses" is none to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_at_the_machines_own() {
        for (listen, reached) in
            [("0.0.0.0:9501", "127.0.0.1:9501"), ("[::]:80", "[::1]:80"), ("10.0.0.1:9501", "10.0.0.1:9501")]
        {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), reached);
        }
    }
}
