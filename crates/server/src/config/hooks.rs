//! The hook: which questions the server asks the application before it stores something.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::file::File;
use super::{ConfigError, Secret, milliseconds, secret};

/// The prefix of secrets, as Standard Webhooks write them.
const SECRET_PREFIX: &str = "whsec_";

/// The shortest key in bytes that Standard Webhooks allow.
const MIN_KEY_BYTES: usize = 24;

/// The most earlier messages in a question.
const MAX_CONTEXT: u32 = 10;

/// The longest time that a question may take: connections wait for it.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A user connects.
    Open,
    /// A user sends a message.
    Message,
    /// A user edits a message.
    Edit,
    /// A user sets or removes a reaction.
    React,
    /// A user creates a room.
    Create,
    /// A user renames a room.
    Rename,
    /// A user adds another one to a room.
    Invite,
}

impl Ask {
    /// Everything that the server can ask about.
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Message, Self::Edit, Self::React, Self::Create, Self::Rename, Self::Invite];

    /// The name in the configuration; a request has it after `ask.`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Message => "message",
            Self::Edit => "edit",
            Self::React => "react",
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Invite => "invite",
        }
    }
}

/// What happens to what was asked about if there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It goes ahead.
    Accept,
    /// It is `unavailable`, and the client tries again.
    Refuse,
}

/// For each question: what happens without an answer.
pub type OnFailures = BTreeMap<Ask, OnFailure>;

/// The hook: a URL of the application, which is asked before something is stored. Without `url` nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct HooksSection {
    /// The URL that gets the questions, by POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) url: Option<String>,
    /// A file with the secret that signs the questions: base64 of at least 24 bytes, with or without `whsec_` before it.
    /// `openssl rand -base64 32` generates one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) secret_file: Option<PathBuf>,
    /// A file with the CA certificates, in PEM, that verify an https:// URL. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) ca: Option<PathBuf>,
    /// What is asked about: "open", "message", "edit", "react", "create", "rename", "invite".
    #[schemars(with = "Vec<String>")]
    pub(super) ask: Vec<Ask>,
    /// The conversations that are asked about, as patterns of their ids in which `*` stands for any characters: "#*", "@*".
    pub(super) only: Vec<String>,
    /// How long an answer may take, in milliseconds, at most 10,000.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub(super) timeout: Duration,
    /// How many earlier messages of the conversation are sent with a message, at most 10.
    pub(super) context: u32,
    /// What happens without an answer: "accept" or "refuse" for each question in `ask`. There is no default. In the environment:
    /// open=accept,message=refuse.
    #[serde(deserialize_with = "on_failures", skip_serializing_if = "OnFailures::is_empty")]
    #[schemars(with = "String")]
    pub(super) on_failure: OnFailures,
}

impl Default for HooksSection {
    fn default() -> Self {
        Self {
            url: None,
            secret_file: None,
            ca: None,
            ask: Vec::new(),
            only: vec!["*".to_owned()],
            timeout: Duration::from_millis(1_500),
            context: 0,
            on_failure: OnFailures::new(),
        }
    }
}

impl HooksSection {
    /// An example for the file of defaults.
    pub(super) fn example() -> Self {
        let on_failure = [
            (Ask::Open, OnFailure::Accept),
            (Ask::Message, OnFailure::Refuse),
            (Ask::Edit, OnFailure::Refuse),
        ];
        Self {
            url: Some("https://shop.example.com/chat-hook".to_owned()),
            secret_file: Some(PathBuf::from("/etc/switchboard/hook")),
            ca: Some(PathBuf::from("/etc/switchboard/hook-ca.pem")),
            ask: vec![Ask::Open, Ask::Message, Ask::Edit],
            on_failure: on_failure.into(),
            ..Self::default()
        }
    }
}

/// Reads a table, or a text such as `open=accept,message=refuse`, which fits into a variable of the environment.
fn on_failures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnFailures, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Table(BTreeMap<String, String>),
        Text(String),
    }
    let pairs: Vec<(String, String)> = match Form::deserialize(deserializer) {
        Ok(Form::Table(table)) => table.into_iter().collect(),
        Ok(Form::Text(text)) => text
            .split(',')
            .filter(|pair| !pair.trim().is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(ask, then)| (ask.trim().to_owned(), then.trim().to_owned()))
            .collect(),
        Err(_) => return Err(serde::de::Error::custom("name one for each: { open = \"accept\", … }")),
    };
    let mut all = OnFailures::new();
    for (ask, then) in pairs {
        let known = Ask::ALL.into_iter().find(|known| known.as_str() == ask);
        let known = known.ok_or_else(|| {
            serde::de::Error::custom(format_args!("{ask:?} is nothing that is asked about"))
        })?;
        let then = match then.as_str() {
            "accept" => OnFailure::Accept,
            "refuse" => OnFailure::Refuse,
            _ => {
                return Err(serde::de::Error::custom(format_args!(
                    "{ask}: {then:?} is neither \"accept\" nor \"refuse\""
                )));
            }
        };
        all.insert(known, then);
    }
    Ok(all)
}

/// The key that signs questions. Its debug form is masked.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Reads a secret as Standard Webhooks write it: `whsec_` and base64.
    ///
    /// # Errors
    /// The text is not base64, or too short.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        secret::check_visible(text)?;
        let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
        let bytes = STANDARD.decode(encoded).map_err(|_| {
            ConfigError::new("the secret is not base64; `openssl rand -base64 32` generates one")
        })?;
        if bytes.len() < MIN_KEY_BYTES {
            return Err(ConfigError::new(format!(
                "the secret has {} bytes behind its base64 and needs at least {MIN_KEY_BYTES}; `openssl rand \
                 -base64 32` generates one",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }

    /// The bytes of the key.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Secret::MASK)
    }
}

/// The hook, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// The URL that gets the questions.
    pub url: Url,
    /// The key that signs the questions.
    pub key: SigningKey,
    /// The file with the CA certificates that verify the URL; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// The patterns of the conversations that are asked about.
    pub only: Vec<String>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many earlier messages are sent with a message.
    pub context: u32,
    /// What is asked about, and what happens without an answer.
    pub on_failure: OnFailures,
    /// The file from which the key was read.
    pub secret_file: PathBuf,
}

impl HooksConfig {
    /// A hook with the other settings at their defaults, for tests.
    pub fn new(url: Url, key: SigningKey, on_failure: impl Into<OnFailures>) -> Self {
        let HooksSection { only, timeout, context, .. } = HooksSection::default();
        let secret_file = PathBuf::new();
        Self { url, key, ca: None, only, timeout, context, on_failure: on_failure.into(), secret_file }
    }

    pub(super) fn to_section(this: Option<&Self>) -> HooksSection {
        let Some(hooks) = this else { return HooksSection::default() };
        HooksSection {
            url: Some(hooks.url.to_string()),
            secret_file: Some(hooks.secret_file.clone()),
            ca: hooks.ca.clone(),
            ask: hooks.on_failure.keys().copied().collect(),
            only: hooks.only.clone(),
            timeout: hooks.timeout,
            context: hooks.context,
            on_failure: hooks.on_failure.clone(),
        }
    }
}

/// Checks the section and reads the file of the secret.
pub(super) fn resolve(
    file: &File,
    source: impl Fn(&str) -> String,
) -> Result<Option<HooksConfig>, ConfigError> {
    let hooks = &file.hooks;
    let Some(url) = &hooks.url else {
        let idle = hooks.ask.is_empty() && hooks.on_failure.is_empty() && hooks.secret_file.is_none();
        return if idle { Ok(None) } else { Err(ConfigError::new("`hooks.url` is missing: whom to ask")) };
    };
    let url_source = source("hooks.url");
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
    let url = url.ok_or_else(|| {
        ConfigError::new(format!(
            "{url_source}: it is not an address such as https://shop.example/chat-hook, without a user name"
        ))
    })?;
    check_questions(hooks)?;
    let path = hooks.secret_file.clone().ok_or_else(|| {
        ConfigError::new("`hooks.secret_file` is missing: the application knows a question by its signature")
    })?;
    let (secret_source, name) = (source("hooks.secret_file"), path.display());
    let text = secret::read_text(&path)
        .map_err(|e| ConfigError::new(format!("{secret_source}: cannot read {name}: {e}")))?;
    let key = SigningKey::parse(text.trim_start_matches(secret::BOM))
        .map_err(|e| ConfigError::new(format!("{secret_source}: {name}: {e}")))?;
    Ok(Some(HooksConfig {
        url,
        key,
        ca: hooks.ca.clone(),
        only: hooks.only.clone(),
        timeout: hooks.timeout,
        context: hooks.context,
        on_failure: hooks.on_failure.clone(),
        secret_file: path,
    }))
}

fn check_questions(hooks: &HooksSection) -> Result<(), ConfigError> {
    if hooks.ask.is_empty() {
        return Err(ConfigError::new("`hooks.ask` is empty: name what is asked about, such as \"message\""));
    }
    if let Some(ask) = hooks.ask.iter().find(|ask| !hooks.on_failure.contains_key(ask)) {
        return Err(ConfigError::new(format!(
            "`hooks.on_failure` does not say what happens to `{0}` without an answer: {0} = \"accept\" or \"refuse\"",
            ask.as_str()
        )));
    }
    if let Some(ask) = hooks.on_failure.keys().find(|ask| !hooks.ask.contains(ask)) {
        return Err(ConfigError::new(format!(
            "`hooks.on_failure` names `{}`, which `hooks.ask` does not",
            ask.as_str()
        )));
    }
    if hooks.only.is_empty() {
        return Err(ConfigError::new(
            "`hooks.only` is empty: no conversation is asked about; omit it for all",
        ));
    }
    if hooks.timeout.is_zero() || hooks.timeout > MAX_TIMEOUT {
        return Err(ConfigError::new("`hooks.timeout` is 1 to 10,000 milliseconds"));
    }
    if hooks.context > MAX_CONTEXT {
        return Err(ConfigError::new(format!("`hooks.context` is at most {MAX_CONTEXT}")));
    }
    Ok(())
}
