//! The configuration file. The doc comments of its fields and of [`Limits`] are the comments in `switchboard config default`,
//! through the JSON Schema of these types.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use switchboard_protocol::Limits;

use super::auth::AuthSection;
use super::hooks::HooksSection;
use super::moderation::{FilterAction, ModerationSection};
use super::webhooks::WebhooksSection;
use super::{
    AcmeSection, ClusterSettings, ConfigError, DEFAULT_LISTEN, EXAMPLE_OPERATOR_LISTEN, ForwardedHeader,
    LogFormat, Network, PermissionsSection, ProfilesSection, ProxyConfig, Secret, TlsSection, UnknownUsers,
    milliseconds,
};
use crate::engine_url::EngineUrl;
use crate::node_name::NodeName;

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// The name of the node in the log, the metrics, the lists of connections of PostgreSQL and NATS, and at other nodes. Without it,
    /// the host name. Nodes on one machine need different names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) name: Option<NodeName>,
    /// The address to listen on. If it is reachable from other machines, it needs TLS: `[tls]`, `[acme]`, or a proxy in front.
    #[serde(deserialize_with = "listen")]
    pub(super) listen: SocketAddr,
    /// The directory of the database. It is created if it does not exist.
    pub(super) data: PathBuf,
    /// The PostgreSQL database that the nodes of a cluster share: postgres://user:password@host/database. Without it the
    /// database is SQLite, in `data`. To keep the password out of this file, use `store_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store: Option<EngineUrl>,
    /// A file with the database's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) store_file: Option<PathBuf>,
    /// The NATS servers between the nodes: nats://host:4222, separated by commas. Without them a node polls the database for other
    /// nodes' events, at most `cluster.sweep` later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus: Option<EngineUrl>,
    /// A file with the URLs of the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) bus_file: Option<PathBuf>,
    /// Web origins whose pages may connect, besides the server's own, such as `https://chat.example.com`. "null" admits all pages
    /// without an origin: files, and sandboxed frames of any site.
    pub(super) allowed_origins: Vec<String>,
    /// Addresses and networks of the proxies in front, such as "10.0.0.0/8" and "::1". For a request from a trusted proxy, the
    /// client's address is the right-most untrusted one in the forwarding header. Without proxies such headers are ignored.
    #[schemars(with = "Vec<String>")]
    pub(super) trusted_proxies: Vec<Network>,
    /// The header with the client's address: "x_forwarded_for" (with `Forwarded` as a fallback), or "forwarded" for proxies that
    /// write only `Forwarded`, because those pass on an X-Forwarded-For that a client forged.
    #[schemars(with = "String")]
    pub(super) forwarded_header: ForwardedHeader,
    /// Whether connections from `trusted_proxies` begin with a PROXY protocol header, version 1 or 2. If true, connections from
    /// trusted proxies without the header are refused, and so are other connections with it.
    pub(super) proxy_protocol: bool,
    /// Whether users may write to ids that the server has not seen before: "allow" or "refuse".
    #[schemars(with = "String")]
    pub(super) unknown_users: UnknownUsers,
    /// How long a user counts as online after the last connection closed, in milliseconds, so that reloading a page does not show
    /// the user as offline.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub(super) presence_grace: Duration,
    /// How long a graceful shutdown may take, in milliseconds. Remaining work is aborted after it.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub(super) shutdown_deadline: Duration,
    /// The longest window over which clients spread their reconnects after a shutdown, in milliseconds. The window is a millisecond
    /// for each client, so that few clients reconnect at once.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub(super) reconnect_spread: Duration,
    pub(super) auth: AuthSection,
    pub(super) log: LogSection,
    pub(super) operator: OperatorSection,
    pub(super) tls: TlsSection,
    pub(super) acme: AcmeSection,
    pub(super) cluster: ClusterSettings,
    pub(super) feed: FeedSection,
    pub(super) profiles: ProfilesSection,
    pub(super) permissions: PermissionsSection,
    pub(super) hooks: HooksSection,
    pub(super) moderation: ModerationSection,
    pub(super) webhooks: WebhooksSection,
    pub(super) limits: Limits,
}

impl Default for File {
    fn default() -> Self {
        Self {
            name: None,
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
            presence_grace: Duration::from_secs(5),
            shutdown_deadline: Duration::from_secs(10),
            reconnect_spread: Duration::from_secs(5),
            auth: AuthSection::default(),
            log: LogSection::default(),
            operator: OperatorSection::default(),
            tls: TlsSection::default(),
            acme: AcmeSection::default(),
            cluster: ClusterSettings::default(),
            feed: FeedSection::default(),
            profiles: ProfilesSection::default(),
            permissions: PermissionsSection::default(),
            hooks: HooksSection::default(),
            moderation: ModerationSection::default(),
            webhooks: WebhooksSection::default(),
            limits: Limits::default(),
        }
    }
}

impl File {
    pub(super) fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        serde_json::to_value(self)
            .map_err(|e| ConfigError::new(format!("cannot write the configuration as JSON: {e}")))
    }

    /// The proxies in front of the server.
    pub(super) fn proxies(&self) -> ProxyConfig {
        let trusted = self.trusted_proxies.clone();
        ProxyConfig { trusted, header: self.forwarded_header, protocol: self.proxy_protocol }
    }
}

/// The feed: what is committed, for back ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeedSection {
    /// How long entries are kept, in milliseconds: 30 days. A consumer that was away for longer gets `bad_cursor`. 0 keeps all. The
    /// logs of conversations stay as they are.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub keep: Duration,
    /// After this time without being read, in milliseconds, a message for a user who is connected nowhere is missed: the feed has
    /// `user.missed`. 0 for never.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub missed_after: Duration,
    /// Whether the feed has `user.online` when a user comes online.
    pub online: bool,
    /// Whether the feed has `user.read` when a member has read further.
    pub reads: bool,
}

impl Default for FeedSection {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            missed_after: Duration::from_secs(60),
            online: false,
            reads: false,
        }
    }
}

/// The log, on stderr.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogSection {
    /// off, error, warn, info, debug or trace, or levels by module: "info,switchboard=debug".
    pub(super) level: String,
    /// "text" for a person, or "json" for a machine.
    #[schemars(with = "String")]
    pub(super) format: LogFormat,
}

/// The operators' listener.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OperatorSection {
    /// A separate address for probes and metrics, which it answers while clients flood `listen`. With it, `listen` has only /livez
    /// and /readyz.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "optional_listen")]
    #[schemars(with = "String")]
    pub(super) listen: Option<SocketAddr>,
    /// The token of operators, at least 32 bytes, for `switchboard who`, `kick`, `rooms` and `sizes`. Without it, they work on the
    /// server's machine only, for every program there. To keep it out of this file, use `token_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) token: Option<Secret>,
    /// A file with the token of operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) token_file: Option<PathBuf>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}

fn optional_listen<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    listen(d).map(Some)
}

fn listen<'de, D: serde::Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format_args!(
            "{text:?} is not an IP address with a port, such as {DEFAULT_LISTEN}, 0.0.0.0:9501 or [::]:9501"
        ))
    })
}

/// The type of a setting's value; determines how an environment variable is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    /// A string.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// Strings separated by commas.
    List,
}

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The section that contains the setting; empty at the top level.
    pub(super) section: &'static str,
    /// The setting's name in its section.
    pub(super) name: String,
    /// The type of the setting's value.
    pub(super) kind: ValueType,
    /// The setting's documentation, which is the doc comment of its field.
    doc: String,
}

impl Setting {
    /// The setting's name with its section, such as `limits.frame`.
    pub(super) fn path(&self) -> String {
        if self.section.is_empty() { self.name.clone() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The setting's environment variable, such as `SWITCHBOARD_LIMITS_FRAME`.
    pub(super) fn variable(&self) -> String {
        format!("SWITCHBOARD_{}", self.path().replace('.', "_").to_ascii_uppercase())
    }
}

/// The names of the file's sections.
pub(super) const SECTIONS: [&str; 13] = [
    "auth",
    "log",
    "operator",
    "tls",
    "acme",
    "cluster",
    "feed",
    "hooks",
    "moderation",
    "webhooks",
    "profiles",
    "permissions",
    "limits",
];

fn schema(section: &str) -> Schema {
    match section {
        "auth" => schema_for!(AuthSection),
        "log" => schema_for!(LogSection),
        "operator" => schema_for!(OperatorSection),
        "tls" => schema_for!(TlsSection),
        "acme" => schema_for!(AcmeSection),
        "cluster" => schema_for!(ClusterSettings),
        "feed" => schema_for!(FeedSection),
        "profiles" => schema_for!(ProfilesSection),
        "permissions" => schema_for!(PermissionsSection),
        "hooks" => schema_for!(HooksSection),
        "moderation" => schema_for!(ModerationSection),
        "webhooks" => schema_for!(WebhooksSection),
        "limits" => schema_for!(Limits),
        _ => schema_for!(File),
    }
}

fn string_property<'a>(schema: &'a serde_json::Value, name: &str) -> &'a str {
    schema.get(name).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// All settings.
pub(super) fn all_settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for section in std::iter::once("").chain(SECTIONS) {
        let schema = schema(section);
        let properties = schema.get("properties").and_then(serde_json::Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            if section.is_empty() && SECTIONS.contains(&name.as_str()) {
                continue;
            }
            let kind = match string_property(property, "type") {
                "integer" => ValueType::Number,
                "boolean" => ValueType::Bool,
                "array" => ValueType::List,
                _ => ValueType::Text,
            };
            let doc = string_property(property, "description").to_owned();
            settings.push(Setting { section, name: name.clone(), kind, doc });
        }
    }
    settings
}

/// The defaults as a commented file: every setting with its documentation, its value commented out.
pub fn default_toml() -> Result<String, ConfigError> {
    let settings = all_settings();
    let mut text = String::from(
        "# The configuration of Switchboard. Every setting is listed with its default, or with an example if\n\
         # it has none; remove the # before a value to change it. SWITCHBOARD_<SETTING> and\n\
         # SWITCHBOARD_<SECTION>_<SETTING> in the environment override this file. Times are in\n\
         # milliseconds, sizes in bytes, rates per second.\n",
    );
    let values = toml::to_string(&example()?)
        .map_err(|e| ConfigError::new(format!("cannot write the defaults as TOML: {e}")))?;
    let mut section = "";
    for line in with_inline_tables(&values).lines().filter(|line| !line.is_empty()) {
        text.push('\n');
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = SECTIONS.into_iter().find(|s| *s == name).unwrap_or_default();
            append_comment(&mut text, string_property(schema(section).as_value(), "description"));
        } else {
            let name = line.split(' ').next().unwrap_or_default();
            let setting = settings.iter().find(|s| s.section == section && s.name == name);
            append_comment(&mut text, setting.map_or("", |s| &s.doc));
            text.push('#');
        }
        text.push_str(&line.replace(Secret::MASK, "at least 32 bytes"));
        text.push('\n');
    }
    Ok(text)
}

/// Writes a table within a section, such as `[hooks.on_failure]`, as a setting of that section on one line.
fn with_inline_tables(toml: &str) -> String {
    let (mut out, mut table) = (String::new(), None::<(String, Vec<&str>)>);
    for line in toml.lines().chain(["["]).filter(|line| !line.is_empty()) {
        match &mut table {
            Some((_, fields)) if !line.starts_with('[') => fields.push(line),
            _ => {
                if let Some((name, fields)) = table.take() {
                    // The name of a list of tables has one more bracket on each side.
                    let fields = format!("{{ {} }}", fields.join(", "));
                    let written = name.strip_suffix(']').map(|name| format!("{name} = [{fields}]\n"));
                    out.push_str(&written.unwrap_or_else(|| format!("{name} = {fields}\n")));
                }
                let inner = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
                table = inner
                    .and_then(|name| name.split_once('.'))
                    .map(|(_, name)| (name.to_owned(), Vec::new()));
                if table.is_none() && line != "[" {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
    }
    out
}

fn append_comment(text: &mut String, doc: &str) {
    for line in doc.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
}

/// The defaults, with examples for settings that have none.
fn example() -> Result<File, ConfigError> {
    Ok(File {
        name: "chat-1".parse().ok(),
        store: Some(EngineUrl::new("postgres://switchboard@db.example.com/switchboard")),
        store_file: Some(PathBuf::from("/etc/switchboard/store")),
        bus: Some(EngineUrl::new("tls://nats.example.com:4222")),
        bus_file: Some(PathBuf::from("/etc/switchboard/bus")),
        operator: OperatorSection {
            listen: Some(EXAMPLE_OPERATOR_LISTEN),
            token: Some(Secret::new("the output of `openssl rand -base64 32`")?),
            token_file: Some(PathBuf::from("/etc/switchboard/operator-token")),
        },
        tls: TlsSection {
            certificate: Some(PathBuf::from("/etc/switchboard/tls.crt")),
            key: Some(PathBuf::from("/etc/switchboard/tls.key")),
        },
        acme: AcmeSection {
            cache: Some(PathBuf::from("/var/lib/switchboard/acme")),
            ca: Some(PathBuf::from("/etc/switchboard/acme-ca.pem")),
            ..AcmeSection::default()
        },
        cluster: ClusterSettings {
            store_ca: Some(PathBuf::from("/etc/switchboard/store-ca.pem")),
            bus_ca: Some(PathBuf::from("/etc/switchboard/bus-ca.pem")),
            bus_credentials: Some(PathBuf::from("/etc/switchboard/bus.creds")),
            ..ClusterSettings::default()
        },
        hooks: HooksSection::example(),
        moderation: ModerationSection {
            words_file: Some(PathBuf::from("/etc/switchboard/words")),
            action: FilterAction::Refuse,
        },
        webhooks: WebhooksSection {
            secret_file: Some(PathBuf::from("/etc/switchboard/webhooks")),
            ca: Some(PathBuf::from("/etc/switchboard/webhooks-ca.pem")),
            ..WebhooksSection::default()
        },
        auth: AuthSection::example()?,
        ..File::default()
    })
}
