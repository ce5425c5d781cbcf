//! An ACME server: Pebble, with a DNS server that resolves every name to 127.0.0.1.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::net::TcpStream;

use crate::port::Port;
use crate::programs;
use crate::server::{Server, ShutdownPlan};

/// An ACME server. Dropping it ends its processes.
#[derive(Debug)]
pub struct Pebble {
    server: Server,
    names: Server,
    port: Port,
    management: Port,
    name_port: Port,
    directory: PathBuf,
}

/// What a [`Pebble`] needs besides its ports.
#[derive(Debug, Clone, Copy)]
pub struct PebbleSettings<'a> {
    /// The certificate, in PEM, of the ACME server itself.
    pub certificate: &'a Path,
    /// The key of that certificate.
    pub key: &'a Path,
    /// The port at which the ACME server validates every domain, in place of 443.
    pub tls_port: u16,
    /// How long an issued certificate is valid.
    pub validity_seconds: u32,
}

impl Pebble {
    /// Reserves the ports, without starting a process. `directory` receives the configuration and the logs.
    pub fn reserve(directory: &Path) -> anyhow::Result<Self> {
        let plan = ShutdownPlan { signal: "KILL", data: None, delete: None };
        let (server, names) = (Server::new(plan)?, Server::new(plan)?);
        let (port, management, name_port) = (Port::reserve()?, Port::reserve()?, Port::reserve()?);
        Ok(Self { server, names, port, management, name_port, directory: directory.to_owned() })
    }

    /// The URL of the ACME directory.
    pub fn url(&self) -> String {
        format!("https://{}/dir", self.port.address())
    }

    /// The address at which HTTPS serves the root certificate of what it issues, as `/roots/0`.
    pub fn management_address(&self) -> SocketAddr {
        self.management.address()
    }

    /// Starts the processes. Returns when they accept connections.
    pub async fn start(&mut self, settings: PebbleSettings<'_>) -> anyhow::Result<()> {
        let (pebble, names) =
            (programs::find_pebble("pebble")?, programs::find_pebble("pebble-challtestsrv")?);
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let (address, name_address) = (self.port.address(), self.name_port.address().to_string());
        let log = self.directory.join("names.log");
        let off = |flag: &str| [format!("-{flag}"), String::new()];
        let others =
            ["doh", "http01", "https01", "tlsalpn01", "defaultIPv6"].iter().flat_map(|name| off(name));
        // The management port is the system's choice: the tests do not use it.
        let own = ["-dnsserver", &name_address, "-management", "127.0.0.1:0"].map(str::to_owned);
        let command: Vec<_> = [text(&names)?].into_iter().chain(own).chain(others).collect();
        self.names.start(&as_strs(&command), &self.directory, None, &log)?;
        let is_ready = |_| accepts_connections(self.name_port.address());
        self.names.becomes_ready("pebble-challtestsrv", &log, is_ready).await?;

        let config = self.directory.join("pebble.json");
        fs::write(&config, configuration(address, self.management_address(), settings)?)
            .context("cannot write a file")?;
        let log = self.directory.join("pebble.log");
        let environment = ["env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"].map(str::to_owned);
        let own = [text(&pebble)?, "-config".into(), text(&config)?, "-dnsserver".into(), name_address];
        let command: Vec<_> = environment.into_iter().chain(own).collect();
        self.server.start(&as_strs(&command), &self.directory, None, &log)?;
        let is_ready = |_| accepts_connections(address);
        self.server.becomes_ready("pebble", &log, is_ready).await
    }

    /// Kills the ACME server.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill().await
    }
}

fn as_strs(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

async fn accepts_connections(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

fn configuration(
    address: SocketAddr,
    management: SocketAddr,
    settings: PebbleSettings<'_>,
) -> anyhow::Result<String> {
    let quoted = |path: &Path| path.to_str().map(|path| format!("{path:?}")).context("a path is not UTF-8");
    let (certificate, key) = (quoted(settings.certificate)?, quoted(settings.key)?);
    let PebbleSettings { tls_port, validity_seconds, .. } = settings;
    Ok(format!(
        r#"{{"pebble": {{"listenAddress": "{address}", "managementListenAddress": "{management}",
             "certificate": {certificate}, "privateKey": {key},
             "httpPort": 1, "tlsPort": {tls_port}, "keyAlgorithm": "ecdsa", "retryAfter": {{"authz": 1, "order": 1}},
             "profiles": {{"default": {{"description": "", "validityPeriod": {validity_seconds}}}}}}}}}"#
    ))
}
