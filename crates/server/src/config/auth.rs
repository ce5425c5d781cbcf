//! The settings of tokens: the keys that verify them, and the issuers that publish their keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switchboard_protocol::UserId;
use url::Url;

use super::{ConfigError, Secret, milliseconds, secret};
use crate::http_client::target::Allowed;

/// A key that verifies tokens. It determines the algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthKey {
    /// HS256, with a secret that the token issuer shares.
    Secret(Secret),
    /// RS256, ES256 or EdDSA, depending on the type of this public key in PEM.
    PublicKey(String),
}

/// How tokens are verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthConfig {
    /// The keys that verify tokens. A token is minted with the first one.
    pub keys: Vec<AuthKey>,
    /// The required `iss`, if any.
    pub issuer: Option<String>,
    /// The required `aud`. Without it, a token with an `aud` is refused because it is meant for another service.
    pub audience: Option<String>,
    /// The required `typ` in the header, if any.
    pub typ: Option<String>,
    /// How old a token may be; zero for any age.
    pub max_token_age: Duration,
    /// The issuers that publish their keys.
    pub issuers: Vec<IssuerConfig>,
    /// The file with the CA certificates that verify issuers' URLs; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// How often issuers' keys are fetched. Only tests change it.
    pub pace: FetchPace,
}

/// How often the keys of an issuer are fetched, and how long they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPace {
    /// The time between two fetches.
    pub refresh: Duration,
    /// The shortest time between two fetches, if a token names an unknown key or the last fetch failed.
    pub spacing: Duration,
    /// How long keys are used while the issuer does not answer.
    pub keep: Duration,
}

impl Default for FetchPace {
    fn default() -> Self {
        // Issuers publish a key a minute or more before it signs, so it is known by then.
        let (refresh, spacing) = (Duration::from_secs(50), Duration::from_secs(30));
        Self { refresh, spacing, keep: Duration::from_secs(7 * 24 * 3_600) }
    }
}

/// An issuer that publishes its keys (OpenID Connect).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// The URL of its keys; `None` to discover it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// What is put before the claim to make the user's id.
    #[serde(default)]
    pub prefix: String,
    /// The claim that has the user's id.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// The claim that says what the user may do.
    #[serde(default = "default_permission_claim")]
    pub claims: String,
    /// Whether that claim may also allow what the configuration does not.
    #[serde(default)]
    pub grants: bool,
}

fn default_user_claim() -> String {
    "sub".to_owned()
}

/// The claim that says what a user may do, unless an issuer has another one.
pub(crate) fn default_permission_claim() -> String {
    "switchboard".to_owned()
}

impl IssuerConfig {
    /// An issuer with the other settings at their defaults.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            jwks: None,
            prefix: String::new(),
            user_claim: default_user_claim(),
            claims: default_permission_claim(),
            grants: false,
        }
    }

    /// The URL of its keys, or of the document that names it (OpenID Connect Discovery 1.0, section 4).
    pub(crate) fn url(&self) -> String {
        match &self.jwks {
            Some(url) => url.clone(),
            None => format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/')),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.audience.is_empty() {
            return Err(
                "`audience` is empty: without it, tokens for other services would be good here".to_owned()
            );
        }
        if self.user_claim.is_empty() {
            return Err(
                "`user_claim` is empty: name the claim with the user's id, such as \"sub\"".to_owned()
            );
        }
        if UserId::parse(&format!("{}a", self.prefix)).is_err() {
            return Err(format!("`prefix`: {:?} is not the beginning of a user id", self.prefix));
        }
        let url = Url::parse(&self.url()).ok().filter(Url::has_host);
        let url = url.ok_or_else(|| format!("{:?} is not an address; write https://…", self.url()))?;
        Allowed::of(&url, true)
            .and_then(|allowed| allowed.check_address(&url))
            .map_err(|advice| format!("{url}: {advice}"))
    }
}

/// How tokens are verified: with a secret that is shared with the token issuer (HS256), with the issuer's public key, or with the
/// keys that `issuers` publish. Each of the four settings for keys takes one or a list: the first mints, and all verify.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AuthSection {
    /// The secret, at least 32 bytes, or a list of secrets. To keep it out of this file, use `secret_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) secret: Option<OneOrMore<Secret>>,
    /// A file with the secret, or a list of files; line breaks at its end are ignored. `openssl rand -base64 32` generates one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub(super) secret_file: Option<OneOrMore<PathBuf>>,
    /// A public key in PEM, or a list of keys. Its type determines the algorithm: RSA of at least 2048 bits is RS256, P-256 is ES256,
    /// Ed25519 is EdDSA.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) public_key: Option<OneOrMore<String>>,
    /// A file with the public key, or a list of files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub(super) public_key_file: Option<OneOrMore<PathBuf>>,
    /// The required `iss`. Without it, any issuer is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) issuer: Option<String>,
    /// The required `aud`, or one of several in it. Without it, tokens with an `aud` are refused because they are meant for another
    /// service (RFC 7519 section 4.1.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) audience: Option<String>,
    /// The required `typ` in the header, such as "chat+jwt". If the application signs other tokens with the same secret, this or
    /// `audience` tells them apart (RFC 8725 section 3.11).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) typ: Option<String>,
    /// How old a token may be, in milliseconds since its `iat`, even if its `exp` is later. 2592000000 is 30 days. 0 allows any age.
    #[serde(with = "milliseconds")]
    #[schemars(with = "u32")]
    pub(super) max_token_age: Duration,
    /// Issuers that publish their keys, such as OpenID Connect providers; each is a table `[[auth.issuers]]`. `issuer` is the `iss` of
    /// its tokens, and `audience` is their `aud`. `jwks` is the URL of the keys; without it, the server discovers it. `prefix` is put
    /// before the claim `user_claim` ("sub") to make the user's id. `claims` ("switchboard") is the claim that says what the user may do;
    /// with `grants = true` it may also allow what `[permissions]` does not. In the environment: the list as JSON.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "issuers")]
    #[schemars(with = "String")]
    pub(super) issuers: Vec<IssuerConfig>,
    /// A file with the CA certificates, in PEM, that verify issuers' https:// URLs. Without it, the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) ca: Option<PathBuf>,
}

impl AuthSection {
    /// An example for the file of defaults.
    pub(super) fn example() -> Result<Self, ConfigError> {
        Ok(Self {
            secret: OneOrMore::of(vec![Secret::new("the output of `openssl rand -base64 32`")?]),
            secret_file: OneOrMore::of(vec![PathBuf::from("/etc/switchboard/secret")]),
            public_key: OneOrMore::of(vec!["-----BEGIN PUBLIC KEY-----".to_owned()]),
            public_key_file: OneOrMore::of(vec![PathBuf::from("/etc/switchboard/issuer.pem")]),
            issuer: Some("https://accounts.example.com".to_owned()),
            audience: Some("switchboard".to_owned()),
            typ: Some("chat+jwt".to_owned()),
            max_token_age: Duration::ZERO,
            issuers: vec![IssuerConfig::new("https://login.example.com/realms/shop", "switchboard")],
            ca: Some(PathBuf::from("/etc/switchboard/issuers-ca.pem")),
        })
    }

    pub(super) fn of(config: &AuthConfig) -> Self {
        let (mut secrets, mut public_keys) = (Vec::new(), Vec::new());
        for key in config.keys.clone() {
            match key {
                AuthKey::Secret(secret) => secrets.push(secret),
                AuthKey::PublicKey(pem) => public_keys.push(pem),
            }
        }
        Self {
            secret: OneOrMore::of(secrets),
            secret_file: None,
            public_key: OneOrMore::of(public_keys),
            public_key_file: None,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            typ: config.typ.clone(),
            max_token_age: config.max_token_age,
            issuers: config.issuers.clone(),
            ca: config.ca.clone(),
        }
    }

    /// Reads the keys from their setting or files, and checks the issuers. The merged layers contain at most one of the four settings
    /// for keys.
    pub(super) fn resolve(&self, source: impl Fn(&str) -> String) -> Result<AuthConfig, ConfigError> {
        check_issuers(self)?;
        Ok(AuthConfig {
            keys: self.keys(source)?,
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            typ: self.typ.clone(),
            max_token_age: self.max_token_age,
            issuers: self.issuers.clone(),
            ca: self.ca.clone(),
            pace: FetchPace::default(),
        })
    }

    fn keys(&self, source: impl Fn(&str) -> String) -> Result<Vec<AuthKey>, ConfigError> {
        let read = |path: &Path, name: &str| {
            secret::read_text(path).map_err(|e| {
                ConfigError::new(format!("{}: cannot read {}: {e}", source(name), path.display()))
            })
        };
        let secret_of = |path: &PathBuf| {
            let secret = Secret::new(read(path, "secret_file")?).map_err(|e| {
                ConfigError::new(format!("{}: {}: {e}", source("secret_file"), path.display()))
            })?;
            Ok(AuthKey::Secret(secret))
        };
        let public_key_of = |path: &PathBuf| {
            let pem = read(path, "public_key_file")?;
            Ok(AuthKey::PublicKey(pem.trim_start_matches(secret::BOM).to_owned()))
        };
        if let Some(OneOrMore(secrets)) = &self.secret {
            Ok(secrets.iter().cloned().map(AuthKey::Secret).collect())
        } else if let Some(OneOrMore(paths)) = &self.secret_file {
            paths.iter().map(secret_of).collect()
        } else if let Some(OneOrMore(keys)) = &self.public_key {
            Ok(keys.iter().map(|pem| AuthKey::PublicKey(secret::with_line_breaks(pem))).collect())
        } else if let Some(OneOrMore(paths)) = &self.public_key_file {
            paths.iter().map(public_key_of).collect()
        } else {
            Ok(Vec::new())
        }
    }
}

fn check_issuers(section: &AuthSection) -> Result<(), ConfigError> {
    let (mut names, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    names.extend(section.issuer.as_deref());
    for issuer in &section.issuers {
        let name = &issuer.issuer;
        let error = |reason: String| Err(ConfigError::new(format!("`auth.issuers`: {name}: {reason}")));
        if let Err(reason) = issuer.check() {
            return error(reason);
        }
        if !names.insert(name) {
            return error("it is named twice, or also by `auth.issuer`".to_owned());
        }
        if !prefixes.insert(&issuer.prefix) {
            return error(format!(
                "another issuer has the `prefix` {:?}, too: users of both could have one id",
                issuer.prefix
            ));
        }
    }
    Ok(())
}

/// One value, or a list of values that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OneOrMore<T>(Vec<T>);

impl<T> OneOrMore<T> {
    fn of(values: Vec<T>) -> Option<Self> {
        (!values.is_empty()).then_some(Self(values))
    }
}

impl<T: Serialize> Serialize for OneOrMore<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            more => more.serialize(s),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let values = match serde_json::Value::deserialize(d)? {
            serde_json::Value::Array(values) => values,
            one => vec![one],
        };
        let read = values.into_iter().map(|value| T::deserialize(value).map_err(D::Error::custom));
        Self::of(read.collect::<Result<_, _>>()?).ok_or_else(|| D::Error::custom("the list is empty"))
    }
}

/// Reads tables, or a text with them as JSON, which fits into a variable of the environment.
fn issuers<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IssuerConfig>, D::Error> {
    match serde_json::Value::deserialize(d)? {
        serde_json::Value::String(text) => serde_json::from_str(&text),
        tables => Vec::deserialize(tables),
    }
    .map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "0123456789abcdef0123456789abcdef";
    const SECOND: &str = "fedcba9876543210fedcba9876543210";

    fn read(section: &str) -> Result<AuthConfig, ConfigError> {
        let section: AuthSection = toml::from_str(section).map_err(|e| ConfigError::new(e.message()))?;
        section.resolve(|name| format!("`auth.{name}`"))
    }

    fn issuer(name: &str, more: &str) -> String {
        format!("[[issuers]]\nissuer = '{name}'\naudience = 'chat'\n{more}\n")
    }

    #[test]
    fn several_keys_are_read_from_each_setting_in_order() {
        let secret = |text: &str| AuthKey::Secret(Secret::new(text).expect("long enough"));
        let list = format!("secret = ['{SECOND}', '{FIRST}']");
        assert_eq!(read(&list).expect("good").keys, [secret(SECOND), secret(FIRST)]);
        let dir = tempfile::tempdir().expect("a directory");
        let paths = [("a", SECOND), ("b", FIRST)].map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        });
        let files = format!("secret_file = ['{}', '{}']", paths[0], paths[1]);
        assert_eq!(read(&files).expect("good").keys, [secret(SECOND), secret(FIRST)]);
        let public = read("public_key = ['new', 'old']").expect("good").keys;
        assert_eq!(public, [AuthKey::PublicKey("new".into()), AuthKey::PublicKey("old".into())]);
        assert!(read("secret = []").expect_err("none").to_string().contains("the list is empty"));
        let short = read(&format!("secret = ['{FIRST}', 'short']")).expect_err("too short").to_string();
        assert!(short.contains("at least 32 bytes") && !short.contains(FIRST), "{short}");
    }

    #[test]
    fn issuers_have_an_audience_and_a_prefix_of_their_own() {
        let two = issuer("https://a.example", "") + &issuer("https://b.example", "prefix = 'b-'");
        let read_two = read(&two).expect("good").issuers;
        assert_eq!(read_two[1].url(), "https://b.example/.well-known/openid-configuration");
        let json = r#"issuers = '[{"issuer":"https://a.example","audience":"chat"}]'"#;
        assert_eq!(read(json).expect("as JSON").issuers, [IssuerConfig::new("https://a.example", "chat")]);
        for (wrong, words) in [
            (
                issuer("https://a.example", "") + &issuer("https://b.example", ""),
                "another issuer has the `prefix`",
            ),
            (issuer("https://a.example", "") + &issuer("https://a.example", "prefix = 'a'"), "named twice"),
            ("issuer = 'https://a.example'\n".to_owned() + &issuer("https://a.example", ""), "named twice"),
            (issuer("https://a.example", "prefix = 'a b'"), "not the beginning of a user id"),
            (issuer("https://a.example", "user_claim = ''"), "`user_claim` is empty"),
            ("[[issuers]]\nissuer = 'https://a.example'".to_owned(), "missing field `audience`"),
            ("[[issuers]]\nissuer = 'https://a.example'\naudience = ''".to_owned(), "`audience` is empty"),
            (issuer("a.example", ""), "is not an address"),
            (issuer("http://8.8.8.8", ""), "use https"),
            (issuer("https://a.example", "jwks = 'ftp://a.example/keys'"), "use an https URL"),
        ] {
            let error = read(&wrong).expect_err(words).to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }
}
