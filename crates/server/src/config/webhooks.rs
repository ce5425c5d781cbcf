//! Webhooks: which secret they are signed with, and where they may send to.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Mode, Secret, secret};

/// Webhooks: `switchboard webhook add` says where entries of the feed are sent. Without `secret_file` there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WebhooksSection {
    /// A file with a secret of at least 32 bytes, from which the secrets of the webhooks are derived. All nodes need the same.
    /// `openssl rand -base64 32` generates one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) secret_file: Option<PathBuf>,
    /// Whether webhooks may send to private addresses, and to those by http. `dev` allows it always.
    pub(super) private: bool,
    /// A file with the CA certificates, in PEM, that verify https:// URLs. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) ca: Option<PathBuf>,
}

/// Webhooks, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhooksConfig {
    /// The secret from which those of the webhooks are derived.
    pub secret: Secret,
    /// Whether webhooks may send to private addresses.
    pub private: bool,
    /// The file with the CA certificates that verify URLs; `None` for the system's.
    pub ca: Option<PathBuf>,
    secret_file: PathBuf,
}

impl WebhooksConfig {
    /// Webhooks that may send to private addresses, for tests.
    pub fn new(secret: Secret) -> Self {
        Self { secret, private: true, ca: None, secret_file: PathBuf::new() }
    }

    pub(super) fn to_section(this: Option<&Self>) -> WebhooksSection {
        let Some(webhooks) = this else { return WebhooksSection::default() };
        WebhooksSection {
            secret_file: Some(webhooks.secret_file.clone()),
            private: webhooks.private,
            ca: webhooks.ca.clone(),
        }
    }
}

/// Checks the section and reads the file of the secret.
pub(super) fn resolve(
    section: &WebhooksSection,
    mode: Mode,
    source: impl Fn(&str) -> String,
) -> Result<Option<WebhooksConfig>, ConfigError> {
    let WebhooksSection { secret_file, private, ca } = section;
    let Some(path) = secret_file else { return Ok(None) };
    let (source, name) = (source("webhooks.secret_file"), path.display());
    let text = secret::read_text(path)
        .map_err(|e| ConfigError::new(format!("{source}: cannot read {name}: {e}")))?;
    let secret = Secret::new(text).map_err(|e| ConfigError::new(format!("{source}: {name}: {e}")))?;
    let private = *private || mode == Mode::Dev;
    Ok(Some(WebhooksConfig { secret, private, ca: ca.clone(), secret_file: path.clone() }))
}
