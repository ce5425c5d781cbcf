//! The configuration: parsed from its sources, then resolved into a [`Config`] that the rest of the server trusts. Flags override
//! the environment, the environment overrides the file, the file overrides the defaults. An unknown setting is an error that
//! suggests the most similar known one.

mod auth;
mod changed;
mod cluster;
mod file;
mod hooks;
mod layers;
mod log_module;
mod milliseconds;
mod moderation;
mod people;
mod proxies;
mod secret;
mod tls;
mod webhooks;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use switchboard_protocol::Limits;
use url::{Origin, Url};

pub use crate::engine_url::EngineUrl;
pub use crate::network::Network;
use crate::node_name::NodeName;
use auth::AuthSection;
pub(crate) use auth::default_permission_claim;
pub use auth::{AuthConfig, AuthKey, FetchPace, IssuerConfig};
pub use cluster::{ClusterConfig, ClusterSettings};
use file::File;
pub use file::{FeedSection, default_toml};
pub use hooks::{Ask, HooksConfig, OnFailure, OnFailures, SigningKey};
use layers::Layers;
pub(crate) use layers::requested_log_format;
pub(crate) use moderation::read_words;
pub use moderation::{FilterAction, ModerationConfig};
pub(crate) use people::is_contact;
pub use people::{PermissionsSection, ProfilesSection};
pub use proxies::{ForwardedHeader, ProxyConfig};
pub use secret::Secret;
pub use tls::{AcmeSection, TlsConfig, TlsSection};
pub use webhooks::WebhooksConfig;

/// The default listen address: the protocol's port, on loopback.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9501);

/// The example address of the operators' listener in `config default`: the port after the default one.
const EXAMPLE_OPERATOR_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9502);

/// Why the configuration is invalid. The message names the setting and the remedy, and never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// The mode in which the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Production: every user needs a token.
    Serve,
    /// A developer's machine: a user name is enough, so the server listens on loopback addresses only.
    Dev,
}

/// Whether users may write to ids that the server has not seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownUsers {
    /// They may: a user exists without registration.
    #[default]
    Allow,
    /// They may not: a user exists once they have connected.
    Refuse,
}

/// The form of the log on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or levels by module such as `info,switchboard=debug`. Its syntax has been checked.
    pub level: String,
    /// How a line of the log is written: as text or as JSON.
    pub format: LogFormat,
}

/// The settings that also exist as flags.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Path of the configuration file, if any.
    pub config: Option<PathBuf>,
    /// See [`Config::listen`].
    pub listen: Option<String>,
    /// See [`Config::operator_listen`].
    pub operator_listen: Option<String>,
    /// See [`Config::data`].
    pub data: Option<String>,
    /// See [`ClusterConfig::store`].
    pub store: Option<String>,
    /// See [`ClusterConfig::bus`].
    pub bus: Option<String>,
    /// See [`Config::node_name`].
    pub name: Option<String>,
}

/// The configuration, resolved: files read, addresses and times parsed, limits checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The mode in which the server runs.
    pub mode: Mode,
    /// The name of the node; `None` for the host name.
    pub node_name: Option<NodeName>,
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The separate address of probes and metrics, if any.
    pub operator_listen: Option<SocketAddr>,
    /// The token that operators send for commands; without it, they use them on the server's machine only.
    pub operator_token: Option<Secret>,
    /// The directory of the SQLite database.
    pub data: PathBuf,
    /// Where the certificate of `listen` comes from; `None` if it speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// The shared database and the bus of a cluster; `None` on a single node. In a cluster, `data` is not used.
    pub cluster: Option<ClusterConfig>,
    /// Web origins whose pages may connect, besides the server's own, in the form that browsers send.
    pub allowed_origins: Vec<String>,
    /// The proxies in front of the server.
    pub proxies: ProxyConfig,
    /// Whether users may write to ids that the server has not seen before.
    pub unknown_users: UnknownUsers,
    /// How long a user counts as online after the last connection closed.
    pub presence_grace: Duration,
    /// How long a graceful shutdown may take.
    pub shutdown_deadline: Duration,
    /// The window over which clients spread their reconnects after a shutdown.
    pub reconnect_spread: Duration,
    /// What the feed has, and for how long.
    pub feed: FeedSection,
    /// The settings of names and pictures.
    pub profiles: ProfilesSection,
    /// What users may do.
    pub permissions: PermissionsSection,
    /// Webhooks, if there is a secret that signs them.
    pub webhooks: Option<WebhooksConfig>,
    /// How tokens are verified.
    pub auth: AuthConfig,
    /// The hook of the application, if there is one.
    pub hooks: Option<HooksConfig>,
    /// The filter of words, if there is one.
    pub moderation: Option<ModerationConfig>,
    /// What is logged, and in which form.
    pub log: LogConfig,
    /// The limits for clients.
    pub limits: Limits,
    /// How `limits.connections` was lowered, if the limit of open files is too low for it.
    pub lowered_connections: Option<LoweredConnections>,
}

/// A `limits.connections` that the limit of open files does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoweredConnections {
    /// The configured limit.
    pub from: u32,
    /// The limit of open files.
    pub open_files: u64,
}

/// The settings that come from more than one setting or from files.
#[derive(Default)]
struct ResolvedSettings {
    auth: AuthConfig,
    tls: Option<TlsConfig>,
    cluster: Option<ClusterConfig>,
    hooks: Option<HooksConfig>,
    webhooks: Option<WebhooksConfig>,
    moderation: Option<ModerationConfig>,
}

impl Config {
    /// The defaults in `dev` mode on a free loopback port, for tests.
    pub fn for_dev(data: PathBuf) -> Self {
        let defaults = Self::from_file(File::default(), Mode::Dev, ResolvedSettings::default());
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), data, ..defaults }
    }

    /// Reads every source and checks that the server can run with them in this mode.
    pub fn load(mode: Mode, flags: &Flags, env: &[(String, String)]) -> Result<Self, ConfigError> {
        let config = Self::read(mode, flags, env)?;
        config.check()?;
        Ok(config)
    }

    /// Reads every source, for commands that run no server. Does not check whether a server could run.
    pub fn read(mode: Mode, flags: &Flags, env: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = &flags.config {
            layers.add_file(path)?;
        }
        layers.add_env(env)?;
        layers.add_flags(flags)?;
        let (file, sources) = layers.finish()?;
        if file.data.as_os_str().is_empty() {
            return Err(ConfigError::new("`data` is empty; name a directory"));
        }
        check_origins(&file.allowed_origins)?;
        check_level(&file.log.level)?;
        check_limits(&file.limits)?;
        file.profiles.check()?;
        file.permissions.check()?;
        file.proxies().check()?;
        let source = |path: &str| sources.get(path).cloned().unwrap_or_default();
        let auth = file.auth.resolve(|name| source(&format!("auth.{name}")))?;
        let operator_token = resolve_token(&file.operator, source)?;
        let tls = tls::resolve(&file)?;
        let hooks = hooks::resolve(&file, source)?;
        let webhooks = webhooks::resolve(&file.webhooks, mode, source)?;
        let moderation = moderation::resolve(&file.moderation, source)?;
        let cluster = cluster::resolve(&file, source)?;
        if cluster.is_some() && flags.data.is_some() {
            return Err(ConfigError::new(
                "--data names the directory of an SQLite database, but `store` is set; use only one of them",
            ));
        }
        Ok(Self {
            operator_token,
            ..Self::from_file(
                file,
                mode,
                ResolvedSettings { auth, tls, cluster, hooks, webhooks, moderation },
            )
        })
    }

    fn from_file(file: File, mode: Mode, resolved: ResolvedSettings) -> Self {
        let ResolvedSettings { auth, tls, cluster, hooks, webhooks, moderation } = resolved;
        Self {
            mode,
            node_name: file.name.clone(),
            listen: file.listen,
            operator_listen: file.operator.listen,
            operator_token: None,
            proxies: file.proxies(),
            data: file.data,
            tls,
            cluster,
            allowed_origins: file.allowed_origins,
            unknown_users: file.unknown_users,
            presence_grace: file.presence_grace,
            shutdown_deadline: file.shutdown_deadline,
            reconnect_spread: file.reconnect_spread,
            feed: file.feed,
            profiles: ProfilesSection { own: file.profiles.allows_own(mode), ..file.profiles },
            permissions: file.permissions,
            webhooks,
            auth,
            hooks,
            moderation,
            log: LogConfig { level: file.log.level, format: file.log.format },
            limits: if mode == Mode::Dev { file.limits.without_rates() } else { file.limits },
            lowered_connections: None,
        }
    }

    /// Checks that a server can run: `serve` needs a key to authenticate users, and `dev`, which does not authenticate, must listen
    /// on loopback only.
    fn check(&self) -> Result<(), ConfigError> {
        if self.operator_listen == Some(self.listen) && self.listen.port() != 0 {
            return Err(ConfigError(format!(
                "`operator.listen`: {} is also `listen`; give operators a port of their own",
                self.listen
            )));
        }
        match self.mode {
            Mode::Dev if !self.listen.ip().is_loopback() => Err(ConfigError(format!(
                "`dev` does not authenticate anyone, so it listens only on a loopback address such as \
                 {DEFAULT_LISTEN}, not on {}; `switchboard serve` may listen anywhere",
                self.listen
            ))),
            Mode::Serve if self.auth.keys.is_empty() && self.auth.issuers.is_empty() => Err(ConfigError(
                "no key to verify tokens with: put the output of `openssl rand -base64 32` into a \
                 file and set SWITCHBOARD_AUTH_SECRET_FILE to its path, or SWITCHBOARD_AUTH_PUBLIC_KEY_FILE \
                 or [[auth.issuers]] if another service issues the tokens; to try things out, `switchboard dev` needs neither"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The name of the node: the configured one, or the host name.
    pub fn name(&self) -> NodeName {
        self.node_name.clone().unwrap_or_else(NodeName::of_host)
    }

    /// The configuration as TOML, with secrets masked.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(&self.to_file())
            .map_err(|e| ConfigError(format!("cannot write the configuration as TOML: {e}")))
    }

    /// The configuration as JSON, with the fields of the file and secrets masked.
    pub fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        self.to_file().to_json()
    }

    fn to_file(&self) -> File {
        let (tls, acme) = TlsConfig::to_sections(self.tls.as_ref());
        File {
            name: self.node_name.clone(),
            listen: self.listen,
            operator: file::OperatorSection {
                listen: self.operator_listen,
                token: self.operator_token.clone(),
                token_file: None,
            },
            tls,
            acme,
            data: self.data.clone(),
            store: self.cluster.as_ref().map(|cluster| cluster.store.clone()),
            store_file: None,
            bus: self.cluster.as_ref().and_then(|cluster| cluster.bus.clone()),
            bus_file: None,
            cluster: self.cluster.as_ref().map(|cluster| cluster.settings.clone()).unwrap_or_default(),
            allowed_origins: self.allowed_origins.clone(),
            trusted_proxies: self.proxies.trusted.clone(),
            forwarded_header: self.proxies.header,
            proxy_protocol: self.proxies.protocol,
            unknown_users: self.unknown_users,
            presence_grace: self.presence_grace,
            shutdown_deadline: self.shutdown_deadline,
            reconnect_spread: self.reconnect_spread,
            feed: self.feed.clone(),
            profiles: self.profiles.clone(),
            permissions: self.permissions.clone(),
            webhooks: WebhooksConfig::to_section(self.webhooks.as_ref()),
            auth: AuthSection::of(&self.auth),
            hooks: HooksConfig::to_section(self.hooks.as_ref()),
            moderation: ModerationConfig::to_section(self.moderation.as_ref()),
            log: file::LogSection { level: self.log.level.clone(), format: self.log.format },
            limits: self.limits.clone(),
        }
    }
}

/// Reads the operators' token from its setting or file.
fn resolve_token(
    section: &file::OperatorSection,
    source: impl Fn(&str) -> String,
) -> Result<Option<Secret>, ConfigError> {
    let (None, Some(path)) = (&section.token, &section.token_file) else { return Ok(section.token.clone()) };
    let (source, path_name) = (source("operator.token_file"), path.display());
    let text = secret::read_text(path);
    let text = text.map_err(|e| ConfigError(format!("{source}: cannot read {path_name}: {e}")))?;
    Secret::new(text).map(Some).map_err(|e| ConfigError(format!("{source}: {path_name}: {e}")))
}

/// The origin that browsers send for pages that have no origin of their own: local files, and sandboxed frames.
pub(crate) const OPAQUE_ORIGIN: &str = "null";

/// Checks the spelling of origins, because they are compared as strings with what the browser sends (RFC 6454 section 6.2) and
/// another spelling would never match.
fn check_origins(origins: &[String]) -> Result<(), ConfigError> {
    for origin in origins.iter().filter(|origin| *origin != OPAQUE_ORIGIN) {
        let canonical = Url::parse(origin).ok().and_then(|url| canonical_origin(&url));
        if canonical.as_ref() != Some(origin) || origin.contains('*') {
            return Err(ConfigError(format!(
                "`allowed_origins`: {origin:?} is not an origin as a browser sends it: write \
                 `https://chat.example.com` or `http://localhost:5173`, in lower case, without a path or a \
                 default port, or `null` for pages without an origin"
            )));
        }
    }
    Ok(())
}

/// The origin of a URL as a browser sends it.
fn canonical_origin(url: &Url) -> Option<String> {
    match url.origin() {
        Origin::Tuple(..) => Some(url.origin().ascii_serialization()),
        // The URL has the scheme of an app, such as `capacitor://localhost`.
        Origin::Opaque(_) => {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            Some(format!("{}://{}{port}", url.scheme(), url.host_str()?.to_ascii_lowercase()))
        }
    }
}

/// Checks a level, or a comma-separated list with `module=level` parts. The log's own parser reads an unknown bare word as a
/// module, so a misspelt `debug` would silence everything else.
fn check_level(level: &str) -> Result<(), ConfigError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |part: &str| LEVELS.contains(&part.rsplit_once('=').map_or(part, |(_, level)| level));
    if level.split(',').all(|part| known(part.trim())) {
        return level.split(',').try_for_each(|part| log_module::check(part.trim()));
    }
    Err(ConfigError(format!(
        "`log.level`: {level:?} is not one of {}, nor a list such as `info,switchboard=debug`",
        LEVELS.join(", ")
    )))
}

/// Refuses limits that would stop every client, or that contradict each other.
fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    for (name, value) in [
        ("frame", limits.frame),
        ("text", limits.text),
        ("hello_frame", limits.hello_frame),
        ("hello_timeout", limits.hello_timeout),
        ("ping_interval", limits.ping_interval),
        ("pong_timeout", limits.pong_timeout),
        ("fragments", limits.fragments),
        ("connections", limits.connections),
        ("in_flight", limits.in_flight),
        ("page", limits.page),
        ("page_bytes", limits.page_bytes),
        ("queue", limits.queue),
    ] {
        if value == 0 {
            return Err(ConfigError(format!("`limits.{name}` is 0, so no client could do anything")));
        }
    }
    for (name, value) in [("text", limits.text), ("hello_frame", limits.hello_frame)] {
        if value > limits.frame {
            return Err(ConfigError(format!(
                "`limits.{name}` is {value}, above `limits.frame`, {} bytes",
                limits.frame
            )));
        }
    }
    if (limits.queue as usize) < Limits::MIN_QUEUE_BYTES {
        return Err(ConfigError(format!(
            "`limits.queue` is {}, too small for one event; the minimum is {}",
            limits.queue,
            Limits::MIN_QUEUE_BYTES
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
