//! Parses the database's URL: the hosts to try in turn, and the TLS mode.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls_client;

/// The application name in the database's logs and in `pg_stat_activity`.
const APPLICATION_NAME: &str = "switchboard";

/// Time-out of a TCP connect before the next host is tried.
const HOST_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle time before, and interval between, TCP keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long sent data may remain unacknowledged (`TCP_USER_TIMEOUT`).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// The TLS mode of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TlsMode {
    /// Without TLS.
    Plain,
    /// Encrypted; the server's certificate is verified only if a file of root certificates is given.
    Encrypted,
    /// Encrypted, and the server's certificate and host name are verified.
    Verified,
}

/// The parameters for connecting to a database.
#[derive(Clone)]
pub(super) struct Target {
    /// A configuration for each host of the URL.
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    display: Arc<str>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.display).finish()
    }
}

impl std::fmt::Display for Target {
    /// Omits the user and the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.display)
    }
}

impl Target {
    /// Parses a URL as `psql` accepts it. `ca` is a file of root certificates that replaces the system's.
    ///
    /// # Errors
    /// The URL is invalid, or the certificates cannot be read.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let (url, parameters) = Parameters::take_from_url(url)?;
        let mut config = Config::from_str(&url).context("the database's URL is invalid")?;
        ensure!(
            !config.get_hosts().is_empty(),
            "the database's URL names no host; write postgres://user@host/database"
        );
        if config.get_user().is_none() {
            config.user("switchboard");
        }
        let mode = match parameters.sslmode.as_deref() {
            None if config.get_hosts().iter().all(is_local) => TlsMode::Plain,
            Some("disable") => TlsMode::Plain,
            Some("require") => TlsMode::Encrypted,
            None | Some("verify-full") => TlsMode::Verified,
            Some(other) => bail!("sslmode={other} is not supported; use disable, require or verify-full"),
        };
        let roots = ca.map(Path::to_owned).or(parameters.sslrootcert);
        config.ssl_mode(if mode == TlsMode::Plain { SslMode::Disable } else { SslMode::Require });
        let display = display(&config);
        let hosts = (0..config.get_hosts().len())
            .map(|n| config_of_host(&config, n, &parameters.other_parameters))
            .collect();
        let tls = MakeRustlsConnect::new(tls(mode, roots.as_deref())?);
        Ok(Self { hosts, tls, display: display.into() })
    }

    /// Adds the name of a node to the application name, unless the URL has an application name of its own.
    pub(super) fn with_node_name(mut self, node: Option<&str>) -> Self {
        for host in &mut self.hosts {
            if let Some(node) = node
                && host.get_application_name() == Some(APPLICATION_NAME)
            {
                host.application_name(format!("{APPLICATION_NAME} {node}"));
            }
        }
        self
    }

    /// The hosts, in the order in which they are tried.
    pub(super) fn hosts(&self) -> &[Config] {
        &self.hosts
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

/// The parameters of a URL that the PostgreSQL library does not handle.
struct Parameters {
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    /// The names of all other parameters, which stay in the URL.
    other_parameters: Vec<String>,
}

impl Parameters {
    /// Takes these parameters from a URL; returns the URL without them.
    fn take_from_url(url: &str) -> anyhow::Result<(String, Self)> {
        ensure!(
            url.starts_with("postgres://") || url.starts_with("postgresql://"),
            "the database's URL must start with postgres://"
        );
        // A password may contain `?`.
        let hosts = url.find('@').unwrap_or_default();
        let (base, query) = url[hosts..].find('?').map_or((url, ""), |mark| {
            let (base, query) = url.split_at(hosts + mark);
            (base, &query[1..])
        });
        let mut taken = Self { sslmode: None, sslrootcert: None, other_parameters: Vec::new() };
        let mut left = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value);
            match name {
                "sslmode" => taken.sslmode = Some(value.decode_utf8_lossy().into_owned()),
                "sslrootcert" => taken.sslrootcert = Some(PathBuf::from(&*value.decode_utf8_lossy())),
                _ => {
                    taken.other_parameters.push(name.to_owned());
                    left.push(pair);
                }
            }
        }
        let url = if left.is_empty() { base.to_owned() } else { format!("{base}?{}", left.join("&")) };
        Ok((url, taken))
    }
}

/// The address of the database without user and password, for logs.
fn display(config: &Config) -> String {
    let port = |n: usize| config.get_ports().get(n).or(config.get_ports().first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(n, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(n)),
        Host::Unix(path) => format!("{}:{}", path.display(), port(n)),
    });
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{}/{database}", hosts.collect::<Vec<_>>().join(","))
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

/// The configuration of host `n` alone, so that a host that hangs does not block the others. Time-outs in the URL override the
/// defaults here.
fn config_of_host(all: &Config, n: usize, others: &[String]) -> Config {
    let is_given = |name: &str| others.iter().any(|other| other == name);
    let mut one = Config::new();
    match all.get_hosts().get(n) {
        Some(Host::Tcp(name)) => one.host(name.clone()),
        Some(Host::Unix(path)) => one.host_path(path),
        None => &mut one,
    };
    if let Some(address) = all.get_hostaddrs().get(n) {
        one.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(n).or(all.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(database) = all.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    one.application_name(all.get_application_name().unwrap_or(APPLICATION_NAME))
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .connect_timeout(all.get_connect_timeout().copied().unwrap_or(HOST_CONNECT_TIMEOUT))
        .tcp_user_timeout(all.get_tcp_user_timeout().copied().unwrap_or(TCP_USER_TIMEOUT))
        .keepalives(all.get_keepalives())
        .keepalives_idle(if is_given("keepalives_idle") {
            all.get_keepalives_idle()
        } else {
            KEEPALIVE_INTERVAL
        })
        .keepalives_interval(all.get_keepalives_interval().unwrap_or(KEEPALIVE_INTERVAL))
        .keepalives_retries(all.get_keepalives_retries().unwrap_or(2))
        // Skips hosts that refuse writes: a standby is skipped until it is promoted.
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    one
}

fn tls(mode: TlsMode, ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    const NO_ROOTS: &str = "this system has no root certificates to verify the database with; name a file with `cluster.store_ca`";
    match (mode, ca) {
        (TlsMode::Plain, _) => tls_client::verifying_config(RootCertStore::empty()),
        // As `sslmode=require` does.
        (TlsMode::Encrypted, None) => tls_client::accepting_any_certificate(),
        (_, ca) => tls_client::verifying_config(tls_client::root_certificates(ca, NO_ROOTS)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssl_mode(url: &str) -> SslMode {
        Target::new(url, None).expect("a target").hosts()[0].get_ssl_mode()
    }

    #[test]
    fn only_local_connections_are_unencrypted_by_default() {
        assert_eq!(ssl_mode("postgres://a@127.0.0.1/b"), SslMode::Disable);
        assert_eq!(ssl_mode("postgres://a@localhost:7/b"), SslMode::Disable);
        assert_eq!(ssl_mode("postgres://a@%2Frun%2Fpostgresql/b"), SslMode::Disable);
        assert_eq!(ssl_mode("postgres://a@db.example/b?sslmode=require"), SslMode::Require);
        assert_eq!(ssl_mode("postgres://a@db.example/b?sslmode=disable"), SslMode::Disable);
        let mixed = Target::new("postgres://a@localhost,db.example/b?sslmode=require", None);
        assert!(mixed.expect("a target").hosts().iter().all(|host| host.get_ssl_mode() == SslMode::Require));
    }

    #[test]
    fn an_invalid_url_is_refused_without_showing_the_password() {
        for url in
            ["mysql://a:secret@b/c", "postgres://a:secret@b/c?sslmode=prefer", "postgres://a:secret@b/c?no=1"]
        {
            let error = format!("{:#}", Target::new(url, None).expect_err(url));
            assert!(!error.contains("secret"), "{error}");
        }
        let missing = Target::new("postgres://a@b/c?sslrootcert=%2Fnowhere.pem", None).expect_err("no file");
        assert!(missing.to_string().contains("/nowhere.pem"), "{missing}");
    }

    #[test]
    fn the_displayed_url_has_no_password() {
        let target = Target::new("postgres://a:secret@127.0.0.1,[::1]:7/c", None).expect("a target");
        assert_eq!(target.to_string(), "postgres://127.0.0.1:5432,::1:7/c");
        assert_eq!(target.hosts().len(), 2);
    }
}
