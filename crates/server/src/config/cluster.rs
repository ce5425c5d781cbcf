//! The configuration of a cluster: the store that the nodes share, and the bus between them.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::File;
use super::{ConfigError, secret};
use crate::engine_url::EngineUrl;

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
    if let Some((url, name)) = &store {
        url.check_password().map_err(|reason| ConfigError::new(format!("{name}: {reason}")))?;
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
