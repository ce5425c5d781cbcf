//! The shape of the configuration file. The doc comments of its fields, and of [`Limits`], are the
//! comments of `switchboard config default`: they reach it through the JSON Schema of these types.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use switchboard_protocol::Limits;

use super::cluster::{ClusterSection, EngineUrl};
use super::{
    ConfigError, DEFAULT_LISTEN, EXAMPLE_OPERATOR_LISTEN, ForwardedHeader, LogFormat, Network, ProxyConfig,
    Secret, UnknownUsers,
};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// The address to listen on. Beyond the machine itself, put a proxy with TLS in front.
    #[serde(deserialize_with = "listen")]
    pub(super) listen: SocketAddr,
    /// The directory of the database. It is made if there is none.
    pub(super) data: PathBuf,
    /// The PostgreSQL database of an installation of several nodes, as postgres://user:password@host/database. Without it the
    /// database is SQLite, in `data`. A file keeps the password out of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store: Option<EngineUrl>,
    /// A file with the database's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store_file: Option<PathBuf>,
    /// The NATS servers between the nodes, as nats://host:4222, several with commas between. Without them a node learns from
    /// the database what others did, `cluster.sweep` later at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus: Option<EngineUrl>,
    /// A file with the URLs of the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_file: Option<PathBuf>,
    /// Web origins besides the server's own whose pages may connect, as `https://chat.example.com`. "null" lets in all pages
    /// that have none: files, and sandboxed frames of any site.
    pub(super) allowed_origins: Vec<String>,
    /// Addresses and networks of the proxies in front, as "10.0.0.0/8" and "::1". Of a request from one of them the client's
    /// address is the right-most one in its forwarding header that no trusted proxy added. Without it such headers are ignored.
    #[schemars(with = "Vec<String>")]
    pub(super) trusted_proxies: Vec<Network>,
    /// The header in which they name the client: "x_forwarded_for" (`Forwarded` counts where a request has none), or
    /// "forwarded" for proxies that write `Forwarded` alone: those pass on an X-Forwarded-For that a client made up.
    #[schemars(with = "String")]
    pub(super) forwarded_header: ForwardedHeader,
    /// Whether connections from `trusted_proxies` begin with a header of the PROXY protocol, version 1 or 2. They are refused
    /// without one then, and connections from elsewhere are refused with one.
    pub(super) proxy_protocol: bool,
    /// Whether ids never seen before may be written to: "allow" or "refuse".
    #[schemars(with = "String")]
    pub(super) unknown_users: UnknownUsers,
    /// How long a user without a connection still counts as online, in milliseconds: a page being
    /// reloaded does not blink.
    pub(super) presence_grace: u32,
    /// How long a graceful shutdown may take, in milliseconds. Whatever runs then is cut off.
    pub(super) shutdown_deadline: u32,
    /// The window over which clients are told to come back after a shutdown, in milliseconds, so that
    /// they do not come all at once.
    pub(super) reconnect_spread: u32,
    pub(super) auth: AuthSection,
    pub(super) log: LogSection,
    pub(super) operator: OperatorSection,
    pub(super) cluster: ClusterSection,
    pub(super) limits: Limits,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            data: PathBuf::from("./data"),
            store: None,
            store_file: None,
            bus: None,
            bus_file: None,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            proxy_protocol: false,
            unknown_users: UnknownUsers::default(),
            presence_grace: 5_000,
            shutdown_deadline: 10_000,
            reconnect_spread: 5_000,
            auth: AuthSection::default(),
            log: LogSection::default(),
            operator: OperatorSection::default(),
            cluster: ClusterSection::default(),
            limits: Limits::default(),
        }
    }
}

impl File {
    /// The proxies in front of the server.
    pub(super) fn proxies(&self) -> ProxyConfig {
        let trusted = self.trusted_proxies.clone();
        ProxyConfig { trusted, header: self.forwarded_header, protocol: self.proxy_protocol }
    }
}

/// How tokens are verified. One of the four keys: a secret that is shared with whoever makes the
/// tokens (HS256), or the public key of whoever makes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AuthSection {
    /// The secret itself, at least 32 bytes. A file keeps it out of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) secret: Option<Secret>,
    /// A file with the secret; a line break at its end does not count. `openssl rand -base64 32` makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) secret_file: Option<PathBuf>,
    /// A public key in PEM; its type fixes the algorithm: RSA of at least 2048 bits is RS256, P-256
    /// is ES256, Ed25519 is EdDSA.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) public_key: Option<String>,
    /// A file with the public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) public_key_file: Option<PathBuf>,
    /// What `iss` must be. Without it, it may be anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) issuer: Option<String>,
    /// What `aud` must be or contain. Without it, tokens with an `aud` are refused: they are meant
    /// for somebody else (RFC 7519 section 4.1.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) audience: Option<String>,
}

/// The log, on stderr.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogSection {
    /// off, error, warn, info, debug or trace; by module as "info,switchboard=debug".
    pub(super) level: String,
    /// "text" for a person, or "json" for a machine.
    #[schemars(with = "String")]
    pub(super) format: LogFormat,
}

/// What is for operators alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OperatorSection {
    /// An address of its own for probes and metrics, which are answered there during floods of the other one. `listen` then has
    /// /livez and /readyz only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "listen_too")]
    #[schemars(with = "String")]
    pub(super) listen: Option<SocketAddr>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

fn listen_too<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    listen(d).map(Some)
}

fn listen<'de, D: serde::Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format_args!(
            "{text:?} is not an IP address with a port, as {DEFAULT_LISTEN}, 0.0.0.0:9501 or [::]:9501"
        ))
    })
}

/// What a value looks like, so that the text of an environment variable can be read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it stands.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Texts with commas between.
    List,
}

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Its section; empty at the top.
    pub(super) section: &'static str,
    /// Its name within.
    pub(super) name: String,
    /// What its value looks like.
    pub(super) kind: Kind,
    /// What it does.
    doc: String,
}

impl Setting {
    /// Its name with its section, as `limits.frame`.
    pub(super) fn path(&self) -> String {
        if self.section.is_empty() { self.name.clone() } else { format!("{}.{}", self.section, self.name) }
    }

    /// Its environment variable, as `SWITCHBOARD_LIMITS_FRAME`.
    pub(super) fn variable(&self) -> String {
        format!("SWITCHBOARD_{}", self.path().replace('.', "_").to_ascii_uppercase())
    }
}

/// The names of the file's sections.
pub(super) const SECTIONS: [&str; 5] = ["auth", "log", "operator", "cluster", "limits"];

fn schema(section: &str) -> Schema {
    match section {
        "auth" => schema_for!(AuthSection),
        "log" => schema_for!(LogSection),
        "operator" => schema_for!(OperatorSection),
        "cluster" => schema_for!(ClusterSection),
        "limits" => schema_for!(Limits),
        _ => schema_for!(File),
    }
}

fn text_at<'a>(schema: &'a serde_json::Value, name: &str) -> &'a str {
    schema.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// Every setting there is.
pub(super) fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for section in std::iter::once("").chain(SECTIONS) {
        let schema = schema(section);
        let properties = schema.get("properties").and_then(serde_json::Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            if section.is_empty() && SECTIONS.contains(&name.as_str()) {
                continue;
            }
            let kind = match text_at(property, "type") {
                "integer" => Kind::Number,
                "boolean" => Kind::Switch,
                "array" => Kind::List,
                _ => Kind::Text,
            };
            let doc = text_at(property, "description").to_owned();
            settings.push(Setting { section, name: name.clone(), kind, doc });
        }
    }
    settings
}

/// The defaults as a commented file: every setting, what it does, its value commented out.
pub fn default_toml() -> Result<String, ConfigError> {
    let settings = settings();
    let mut text = String::from(
        "# The configuration of Switchboard. Every setting has its default here, or an example where there\n\
         # is none; take away the # before a value to change it. SWITCHBOARD_<SETTING> and\n\
         # SWITCHBOARD_<SECTION>_<SETTING> in the environment win over this file. Times are in\n\
         # milliseconds, sizes in bytes, rates per second.\n",
    );
    let values = toml::to_string(&example()?)
        .map_err(|e| ConfigError::new(format!("the defaults have no TOML form: {e}")))?;
    let mut section = "";
    for line in values.lines().filter(|line| !line.is_empty()) {
        text.push('\n');
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = SECTIONS.into_iter().find(|s| *s == name).unwrap_or_default();
            comment(&mut text, text_at(schema(section).as_value(), "description"));
        } else {
            let name = line.split(' ').next().unwrap_or_default();
            let setting = settings.iter().find(|s| s.section == section && s.name == name);
            comment(&mut text, setting.map_or("", |s| &s.doc));
            text.push('#');
        }
        text.push_str(&line.replace(Secret::MASK, "at least 32 bytes"));
        text.push('\n');
    }
    Ok(text)
}

fn comment(text: &mut String, doc: &str) {
    for line in doc.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
}

/// The defaults, with examples for what has none.
fn example() -> Result<File, ConfigError> {
    Ok(File {
        store: Some(EngineUrl::new("postgres://switchboard@db.example.com/switchboard")),
        store_file: Some(PathBuf::from("/etc/switchboard/store")),
        bus: Some(EngineUrl::new("tls://nats.example.com:4222")),
        bus_file: Some(PathBuf::from("/etc/switchboard/bus")),
        operator: OperatorSection { listen: Some(EXAMPLE_OPERATOR_LISTEN) },
        cluster: ClusterSection {
            store_ca: Some(PathBuf::from("/etc/switchboard/store-ca.pem")),
            bus_ca: Some(PathBuf::from("/etc/switchboard/bus-ca.pem")),
            bus_credentials: Some(PathBuf::from("/etc/switchboard/bus.creds")),
            ..ClusterSection::default()
        },
        auth: AuthSection {
            secret: Some(Secret::new("the output of `openssl rand -base64 32`")?),
            secret_file: Some(PathBuf::from("/etc/switchboard/secret")),
            public_key: Some("-----BEGIN PUBLIC KEY-----".to_owned()),
            public_key_file: Some(PathBuf::from("/etc/switchboard/issuer.pem")),
            issuer: Some("https://accounts.example.com".to_owned()),
            audience: Some("switchboard".to_owned()),
        },
        ..File::default()
    })
}
