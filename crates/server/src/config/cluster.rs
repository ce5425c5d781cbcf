//! The configuration of a cluster: the store that the nodes share, and the bus between them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::file::File;
use super::{ConfigError, Secret, secret};

/// The URL of a database or a bus. Its debug and serialised forms mask the password.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl(String);

impl EngineUrl {
    /// Wraps a URL without checking it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for connecting.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The servers of a NATS bus. `ca` says whether a CA certificate is configured.
    ///
    /// # Errors
    /// Messages and passwords would go to another machine in plain text without `?tls=off`, or the parameters contradict each
    /// other.
    pub(crate) fn bus_servers(&self, ca: bool) -> Result<BusServers, String> {
        let mut urls = Vec::new();
        let mut plain = false;
        for url in self.0.split(',').map(str::trim) {
            // A password may contain `?`; parameters contain no `@`.
            let (url, parameters) = match url.rsplit_once('?') {
                Some((url, parameters)) if !parameters.contains('@') => (url, parameters),
                _ => (url, ""),
            };
            match parameters {
                "" => {}
                "tls=off" => plain = true,
                other => {
                    return Err(format!(
                        "`?{other}` is not a parameter of a bus; the only one is `?tls=off`"
                    ));
                }
            }
            urls.push(url);
        }
        // Servers that NATS announces have no scheme, so one TLS server makes all of them use TLS.
        let tls = ca || urls.iter().any(|url| url.starts_with("tls://"));
        if tls && plain {
            return Err("`?tls=off` means plain text, but `tls://` or `cluster.bus_ca` means TLS".to_owned());
        }
        match urls.iter().map(|url| host(url)).find(|host| !is_loopback(host)) {
            Some(host) if !tls && !plain => Err(format!(
                "messages and passwords would go to {host} in plain text; use tls://, or add `?tls=off` if the network \
                 between the machines is private"
            )),
            _ => Ok(BusServers { urls: urls.into_iter().map(str::to_owned).collect(), tls }),
        }
    }

    fn has_scheme(&self, schemes: &[&str]) -> bool {
        self.0.split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
    }
}

/// The servers of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusServers {
    /// Their URLs without parameters. They hold passwords.
    pub(crate) urls: Vec<String>,
    /// Whether all of them must use TLS.
    pub(crate) tls: bool,
}

/// The host of a server's URL.
fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    match address.strip_prefix('[').and_then(|address| address.split_once(']')) {
        Some((ip, _)) => ip,
        None => address.split([':', '/']).next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl std::fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A password may contain `,` or `?`; PostgreSQL's list of hosts repeats no scheme.
        let postgres = self.has_scheme(&["postgres", "postgresql"]);
        let urls: Vec<_> = if postgres { vec![self.0.as_str()] } else { self.0.split(',').collect() };
        for (index, url) in urls.into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (scheme, rest) =
                url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
            if let Some(scheme) = scheme {
                write!(f, "{scheme}://")?;
            }
            // Without a scheme it may be a list of keywords such as `host=db password=…`.
            if scheme.is_none() && rest.contains('=') {
                f.write_str(Secret::MASK)?;
                continue;
            }
            let host = match rest.rsplit_once('@') {
                Some((login, host)) => {
                    match login.split_once(':') {
                        Some((user, _)) => write!(f, "{user}:{}@", Secret::MASK)?,
                        // A single word is a user for PostgreSQL and a token for NATS.
                        None if postgres => write!(f, "{login}@")?,
                        None => write!(f, "{}@", Secret::MASK)?,
                    }
                    host
                }
                None => rest,
            };
            match host.split_once('?') {
                Some((host, parameters)) if parameters.contains("password") => {
                    write!(f, "{host}?{}", Secret::MASK)?;
                }
                _ => f.write_str(host)?,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for EngineUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EngineUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // serde's own message would contain the value.
        let url = String::deserialize(d).map_err(|_| de::Error::custom("a URL is a string"))?;
        Ok(Self(url))
    }
}

/// A cluster: several nodes that share a `store`. Ignored without one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClusterSection {
    /// How often a node compares its conversations with the store, in milliseconds. An event that the bus lost is delivered at most
    /// that late.
    pub(super) sweep: u32,
    /// How long the users of a crashed node count as online, in milliseconds.
    pub(super) lease: u32,
    /// Connections of a node that read from the store; it has one more for writes.
    pub(super) readers: u32,
    /// A file with the CA certificates, in PEM, that verify the store's. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store_ca: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify the bus's. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_ca: Option<PathBuf>,
    /// A file with the node's credentials for the bus, as written by `nsc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_credentials: Option<PathBuf>,
    /// The first token of the bus's subjects. Installations that share a bus need different ones.
    pub(super) bus_prefix: String,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            sweep: 4_000,
            lease: 10_000,
            readers: 4,
            store_ca: None,
            bus_ca: None,
            bus_credentials: None,
            bus_prefix: "switchboard".to_owned(),
        }
    }
}

/// The store that nodes share, and the bus between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The database.
    pub store: EngineUrl,
    /// The bus. Without one, nodes poll the store for each other's events.
    pub bus: Option<EngineUrl>,
    /// How often a node compares its conversations with the store.
    pub sweep: Duration,
    /// How long the users of a crashed node count as online.
    pub lease: Duration,
    /// Connections that read from the store.
    pub readers: usize,
    /// The file with the CA certificates that verify the store's.
    pub store_ca: Option<PathBuf>,
    /// The file with the CA certificates that verify the bus's.
    pub bus_ca: Option<PathBuf>,
    /// The file with the node's credentials for the bus.
    pub bus_credentials: Option<PathBuf>,
    /// The first token of the bus's subjects.
    pub bus_prefix: String,
}

impl ClusterConfig {
    /// The defaults on this store, for tests.
    pub fn on(store: EngineUrl, bus: Option<EngineUrl>) -> Self {
        Self::from_section(store, bus, ClusterSection::default())
    }

    fn from_section(store: EngineUrl, bus: Option<EngineUrl>, section: ClusterSection) -> Self {
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        Self {
            store,
            bus,
            sweep: millis(section.sweep),
            lease: millis(section.lease),
            readers: section.readers as usize,
            store_ca: section.store_ca,
            bus_ca: section.bus_ca,
            bus_credentials: section.bus_credentials,
            bus_prefix: section.bus_prefix,
        }
    }

    /// The section of the configuration file.
    pub(super) fn to_section(&self) -> ClusterSection {
        let millis = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        ClusterSection {
            sweep: millis(self.sweep),
            lease: millis(self.lease),
            readers: u32::try_from(self.readers).unwrap_or(u32::MAX),
            store_ca: self.store_ca.clone(),
            bus_ca: self.bus_ca.clone(),
            bus_credentials: self.bus_credentials.clone(),
            bus_prefix: self.bus_prefix.clone(),
        }
    }
}

/// Reads the URLs from their settings or files and checks them without connecting.
pub(super) fn resolve(
    file: &File,
    source: impl Fn(&str) -> String,
) -> Result<Option<ClusterConfig>, ConfigError> {
    let read = |name: &str, url: &Option<EngineUrl>, path: &Option<PathBuf>| -> Result<_, ConfigError> {
        match (url, path) {
            (Some(url), _) => Ok(Some((url.clone(), source(name)))),
            (None, Some(path)) => {
                let name = source(&format!("{name}_file"));
                let text = secret::read_text(path)
                    .map_err(|e| ConfigError::new(format!("{name}: cannot read {}: {e}", path.display())))?;
                Ok(Some((EngineUrl::new(text.trim_start_matches(secret::BOM).trim()), name)))
            }
            (None, None) => Ok(None),
        }
    };
    let store = read("store", &file.store, &file.store_file)?;
    let bus = read("bus", &file.bus, &file.bus_file)?;
    if let Some((url, name)) = store.iter().find(|(url, _)| !url.has_scheme(&["postgres", "postgresql"])) {
        return Err(ConfigError::new(format!(
            "{name}: {url} is not the address of a PostgreSQL database, such as postgres://user@host/database; \
             without a `store` the database is SQLite, in `data`"
        )));
    }
    if let Some((url, name)) = bus.iter().find(|(url, _)| !url.has_scheme(&["nats", "tls"])) {
        return Err(ConfigError::new(format!(
            "{name}: {url} is not the address of a NATS server, such as nats://host:4222 or tls://host:4222"
        )));
    }
    check_section(&file.cluster)?;
    match (store, bus) {
        (Some((store, _)), bus) => {
            if let Some((url, name)) = &bus {
                let servers = url.bus_servers(file.cluster.bus_ca.is_some());
                servers.map_err(|reason| ConfigError::new(format!("{name}: {reason}")))?;
            }
            let bus = bus.map(|(bus, _)| bus);
            Ok(Some(ClusterConfig::from_section(store, bus, file.cluster.clone())))
        }
        (None, Some((_, name))) => Err(ConfigError::new(format!(
            "{name}: a bus connects nodes that share a `store`, but `store` is not set; SQLite serves one node"
        ))),
        (None, None) => Ok(None),
    }
}

fn check_section(section: &ClusterSection) -> Result<(), ConfigError> {
    for (name, value, least) in
        [("sweep", section.sweep, 100), ("lease", section.lease, 1_000), ("readers", section.readers, 1)]
    {
        if value < least {
            return Err(ConfigError::new(format!("`cluster.{name}` is {value}; the minimum is {least}")));
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if section.bus_prefix.is_empty() || !section.bus_prefix.chars().all(plain) {
        return Err(ConfigError::new(format!(
            "`cluster.bus_prefix`: {:?} must consist of letters, digits, - and _",
            section.bus_prefix
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_to_another_machine_needs_tls_off_in_the_url() {
        let tls = |url: &str, ca: bool| EngineUrl::new(url).bus_servers(ca).map(|servers| servers.tls);
        for url in [
            "nats://127.0.0.1:4222",
            "nats://u:p?w@localhost",
            "nats://[::1]:4222",
            "nats://bus:4222?tls=off",
        ] {
            assert_eq!(tls(url, false), Ok(false), "{url}");
        }
        assert_eq!(tls("nats://bus:4222", true), Ok(true));
        assert_eq!(tls("tls://u:p@bus:4222,nats://other", false), Ok(true));
        for url in ["nats://bus:4222", "nats://127.0.0.1,nats://10.0.0.7", "nats://u:p@127.0.0.1@bus"] {
            let refused = tls(url, false).expect_err(url);
            assert!(refused.contains("?tls=off") && !refused.contains("u:p"), "{refused}");
        }
        tls("tls://bus?tls=off", false).expect_err("both");
        tls("nats://bus?tls=maybe", false).expect_err("no such value");
        let servers =
            EngineUrl::new("nats://u:p@a:1?tls=off, nats://b:2").bus_servers(false).expect("servers");
        assert_eq!(servers.urls, ["nats://u:p@a:1", "nats://b:2"]);
    }

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://u:geheim@db:5432/chat", "postgres://u:(hidden)@db:5432/chat"),
            ("postgres://u@a,b/chat?sslmode=require", "postgres://u@a,b/chat?sslmode=require"),
            ("postgres://db/chat?user=u&password=geheim", "postgres://db/chat?(hidden)"),
            (
                "nats://geheim@a:4222,nats://u:geheim@b:4222",
                "nats://(hidden)@a:4222,nats://u:(hidden)@b:4222",
            ),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("host=db user=u password=geheim", "(hidden)"),
            ("postgres://u:geh?eim@db/chat", "postgres://u:(hidden)@db/chat"),
            (
                "postgres://u:geh,eim@a,b/chat?sslmode=require",
                "postgres://u:(hidden)@a,b/chat?sslmode=require",
            ),
            ("postgres://u:geh@eim@db/chat", "postgres://u:(hidden)@db/chat"),
            ("nats://u:geh?eim@a:4222", "nats://u:(hidden)@a:4222"),
        ] {
            assert_eq!(EngineUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", EngineUrl::new(url)), shown);
        }
    }
}
