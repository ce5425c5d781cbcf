//! The configuration of a cluster: the store that the nodes share, and the bus between them.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::File;
use super::{ConfigError, milliseconds, secret};
use crate::engine_url::EngineUrl;

/// A cluster: several nodes that share a `store`. Ignored without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// How often a node compares its conversations with the store, in milliseconds. An event that the bus lost is delivered at most
    /// that late.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub sweep: Duration,
    /// How long the users of a crashed node count as online, in milliseconds.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub lease: Duration,
    /// Connections of a node that read from the store; it has one more for writes.
    pub readers: u32,
    /// A file with the CA certificates, in PEM, that verify the store's. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub store_ca: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify the bus's. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub bus_ca: Option<PathBuf>,
    /// A file with the node's credentials for the bus, as written by `nsc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub bus_credentials: Option<PathBuf>,
    /// The first token of the bus's subjects. Installations that share a bus need different ones.
    pub bus_prefix: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            sweep: Duration::from_secs(4),
            lease: Duration::from_secs(10),
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
    /// The PostgreSQL database that all nodes share.
    pub store: EngineUrl,
    /// The NATS servers between the nodes. Without them, nodes poll the store for each other's events.
    pub bus: Option<EngineUrl>,
    /// The other settings.
    pub settings: ClusterSettings,
}

impl ClusterConfig {
    /// The default settings with this store and this bus, for tests.
    pub fn with_engines(store: EngineUrl, bus: Option<EngineUrl>) -> Self {
        Self { store, bus, settings: ClusterSettings::default() }
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
            Ok(Some(ClusterConfig { store, bus, settings: file.cluster.clone() }))
        }
        (None, Some((_, name))) => Err(ConfigError::new(format!(
            "{name}: a bus connects nodes that share a `store`, but `store` is not set; SQLite serves one node"
        ))),
        (None, None) => Ok(None),
    }
}

fn check_section(section: &ClusterSettings) -> Result<(), ConfigError> {
    let ms = |duration: Duration| duration.as_millis();
    for (name, value, least) in [
        ("sweep", ms(section.sweep), 100),
        ("lease", ms(section.lease), 1_000),
        ("readers", section.readers.into(), 1),
    ] {
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
