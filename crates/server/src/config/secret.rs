//! Reads secrets from files and finds invisible mistakes in them.

use std::io;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use switchboard_protocol::is_blank;

use super::ConfigError;
use crate::engine_url::MASK;

/// The minimum length of a secret in bytes: HS256 requires a key as long as its hash (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// A shared secret of at least 32 bytes. Its debug and serialised forms are masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text that replaces a secret where a configuration is shown.
    pub const MASK: &'static str = MASK;

    /// Makes a secret of `text`, without line breaks at its end, because editors and `echo` end a file with one.
    ///
    /// # Errors
    /// The text has fewer than 32 bytes, or invisible characters that the token issuer's copy probably lacks.
    pub fn new(text: impl Into<String>) -> Result<Self, ConfigError> {
        let mut text = text.into();
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        check_visible(&text)?;
        if text.len() < MIN_SECRET_BYTES {
            return Err(ConfigError::new(format!(
                "a secret needs at least {MIN_SECRET_BYTES} bytes, this one has {}; `openssl rand -base64 32` \
                 generates one",
                text.len()
            )));
        }
        Ok(Self(text))
    }

    /// Whether a text is the secret. The time does not depend on how much of it is right, because hashes are compared.
    pub(crate) fn matches(&self, text: &str) -> bool {
        Sha256::digest(self.0.as_bytes()) == Sha256::digest(text.as_bytes())
    }

    /// The secret's text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The secret's bytes, for signing and verifying.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(Self::MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // serde's own message would contain the value.
        let text = String::deserialize(d).map_err(|_| de::Error::custom("a secret is a string"))?;
        Self::new(text).map_err(de::Error::custom)
    }
}

/// The byte order mark that some editors write at the start of UTF-8 text.
pub(super) const BOM: char = '\u{feff}';

/// Reads a UTF-8 file. The error names the encoding problem.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    // UTF-16 without a byte order mark has a zero byte for every ASCII character.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(io::Error::other("it is UTF-16 or not text; save it as UTF-8"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8; save it as UTF-8"))
}

/// Restores the line breaks of a PEM text on one line. It has `\\n` instead, because some environments do not allow line breaks in
/// a variable.
pub(super) fn with_line_breaks(pem: &str) -> String {
    if pem.contains('\n') { pem.to_owned() } else { pem.replace("\\n", "\n") }
}

/// Refuses invisible characters in a secret, because the issuer's copy probably lacks them and then every token is refused.
pub(super) fn check_visible(secret: &str) -> Result<(), ConfigError> {
    let is_invisible = |c: Option<char>| c.is_some_and(|c| is_blank(c.encode_utf8(&mut [0; 4])));
    let message = if secret.starts_with(BOM) {
        "the secret begins with a byte order mark (U+FEFF); save it as UTF-8 without one"
    } else if secret.contains('\0') {
        "the secret contains zero bytes; if it is UTF-16, save it as UTF-8"
    } else if secret.contains(['\n', '\r']) {
        "the secret has several lines; a secret is one line, and a key in PEM goes into `public_key`"
    } else if is_invisible(secret.chars().next()) || is_invisible(secret.chars().next_back()) {
        "the secret begins or ends with white space or an invisible character; remove it here and at the token issuer"
    } else if secret.contains(char::is_control) {
        "the secret contains control characters; use printable text"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(message))
}
