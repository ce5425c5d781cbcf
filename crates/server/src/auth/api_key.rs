//! API keys of back ends.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::AuthError;

/// The API key of a back end: `sbk_` and 256 random bits in base64url. It is shown once, when it is created. The server stores only
/// its hash.
pub struct ApiKey(String);

impl ApiKey {
    /// The prefix of every key, so that secret scanners find a leaked key, and the server can tell a key from a token.
    pub const PREFIX: &'static str = "sbk_";

    /// Generates a new key. Fails if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|_| AuthError::NoRandomness)?;
        Ok(Self(format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The text of the key, which is shown only once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The SHA-256 hash of a key, which the store keeps and looks up. Passwords need a slow, salted hash, because they can be
    /// guessed. 256 random bits cannot be guessed, so a fast hash is enough. For the same reason the lookup need not take constant
    /// time.
    pub fn hash(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}
