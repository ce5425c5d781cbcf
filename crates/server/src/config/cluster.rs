//! Where several nodes are one installation: the store that they share, and the bus between them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::file::File;
use super::{ConfigError, Secret, secret};

/// The address of a database or a bus. It may hold a password, so its debug and serialised forms hide that.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl(String);

impl EngineUrl {
    /// Takes a URL as it stands.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The whole URL, for whoever connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The servers of a NATS bus; `ca` is whether there are certificates of its own to verify them with.
    ///
    /// # Errors
    /// Messages and passwords would go to another machine in plain text, and the URL does not ask for that; or its parameters
    /// contradict each other.
    pub(crate) fn bus_servers(&self, ca: bool) -> Result<BusServers, String> {
        let mut urls = Vec::new();
        let mut plain = false;
        for url in self.0.split(',').map(str::trim) {
            // A password may have a `?` in it; what follows the host has no `@`.
            let (url, parameters) = match url.rsplit_once('?') {
                Some((url, parameters)) if !parameters.contains('@') => (url, parameters),
                _ => (url, ""),
            };
            match parameters {
                "" => {}
                "tls=off" => plain = true,
                other => return Err(format!("`?{other}` is no parameter of a bus; there is `?tls=off`")),
            }
            urls.push(url);
        }
        // A server that another server names has no scheme, so one TLS server makes all of them use TLS.
        let tls = ca || urls.iter().any(|url| url.starts_with("tls://"));
        if tls && plain {
            return Err("`?tls=off` asks for plain text, and `tls://` or `cluster.bus_ca` for TLS".to_owned());
        }
        match urls.iter().map(|url| host(url)).find(|host| !is_this_machine(host)) {
            Some(host) if !tls && !plain => Err(format!(
                "messages and passwords would go to {host} in plain text; use tls://, or add `?tls=off` where the network \
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
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((address, _)) => address,
        None => place.split([':', '/']).next().unwrap_or_default(),
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl std::fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A password may have a `,` or a `?` in it; a list of hosts has no second scheme.
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
            // Without a scheme it may be a line of words, as `host=db password=…`.
            if scheme.is_none() && rest.contains('=') {
                f.write_str(Secret::MASK)?;
                continue;
            }
            let place = match rest.rsplit_once('@') {
                Some((who, place)) => {
                    match who.split_once(':') {
                        Some((user, _)) => write!(f, "{user}:{}@", Secret::MASK)?,
                        // A bare name is a user for PostgreSQL and a token for NATS.
                        None if postgres => write!(f, "{who}@")?,
                        None => write!(f, "{}@", Secret::MASK)?,
                    }
                    place
                }
                None => rest,
            };
            match place.split_once('?') {
                Some((place, parameters)) if parameters.contains("password") => {
                    write!(f, "{place}?{}", Secret::MASK)?;
                }
                _ => f.write_str(place)?,
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
        // serde's own message would quote the value.
        let url = String::deserialize(d).map_err(|_| de::Error::custom("a URL is a string"))?;
        Ok(Self(url))
    }
}

/// Several nodes that are one installation. Without a `store` there is one, and none of this counts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClusterSection {
    /// How often a node compares what it hosts with the store, in milliseconds. What the bus loses comes that late.
    pub(super) sweep: u32,
    /// How long the users of a node that died count as online, in milliseconds.
    pub(super) lease: u32,
    /// Connections of a node that read from the store; one more writes.
    pub(super) readers: u32,
    /// A file with the certificates, in PEM, that the store's is verified with. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store_ca: Option<PathBuf>,
    /// The same for the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_ca: Option<PathBuf>,
    /// A file with the node's credentials for the bus, as `nsc` makes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_credentials: Option<PathBuf>,
    /// What begins the subjects on the bus: installations that share one have different ones.
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
    /// The bus; without one, nodes learn from the store what others did.
    pub bus: Option<EngineUrl>,
    /// How often a node compares what it hosts with the store.
    pub sweep: Duration,
    /// How long the users of a node that died count as online.
    pub lease: Duration,
    /// Connections that read.
    pub readers: usize,
    /// Certificates that the store's is verified with.
    pub store_ca: Option<PathBuf>,
    /// Certificates that the bus's is verified with.
    pub bus_ca: Option<PathBuf>,
    /// The node's credentials for the bus.
    pub bus_credentials: Option<PathBuf>,
    /// What begins the subjects on the bus.
    pub bus_prefix: String,
}

impl ClusterConfig {
    /// The defaults, on this store: what tests start from.
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

    /// In the form of the configuration's file.
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

/// Reads the URLs from where they are, and checks what can be checked without the engines.
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
            "{name}: {url} is not the address of a PostgreSQL database, as postgres://user@host/database; \
             without a `store` the database is SQLite, in `data`"
        )));
    }
    if let Some((url, name)) = bus.iter().find(|(url, _)| !url.has_scheme(&["nats", "tls"])) {
        return Err(ConfigError::new(format!(
            "{name}: {url} is not the address of a NATS server, as nats://host:4222 or tls://host:4222"
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
            "{name}: a bus joins nodes that share a `store`, and there is none; SQLite serves one node"
        ))),
        (None, None) => Ok(None),
    }
}

fn check_section(section: &ClusterSection) -> Result<(), ConfigError> {
    for (name, value, least) in
        [("sweep", section.sweep, 100), ("lease", section.lease, 1_000), ("readers", section.readers, 1)]
    {
        if value < least {
            return Err(ConfigError::new(format!("`cluster.{name}` is {value}, and it is at least {least}")));
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if section.bus_prefix.is_empty() || !section.bus_prefix.chars().all(plain) {
        return Err(ConfigError::new(format!(
            "`cluster.bus_prefix`: {:?} is not made of letters, digits, - and _",
            section.bus_prefix
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_leaves_this_machine_only_where_the_url_asks_for_it() {
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
