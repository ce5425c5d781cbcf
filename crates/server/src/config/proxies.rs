//! The proxies in front of the server: which are trusted, and how they name a client's address.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Network};

/// The header in which trusted proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, with `Forwarded` as a fallback.
    #[default]
    XForwardedFor,
    /// Only `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies in front of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyConfig {
    /// The networks of trusted proxies. If empty, no proxy is trusted.
    pub trusted: Vec<Network>,
    /// The header in which trusted proxies name the client.
    pub header: ForwardedHeader,
    /// Whether each connection of a trusted proxy begins with a PROXY protocol header.
    pub protocol: bool,
}

impl ProxyConfig {
    /// Refuses settings that would let clients forge their address.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some(all) = self.trusted.iter().find(|network| network.prefix() == 0) {
            return Err(ConfigError::new(format!(
                "`trusted_proxies`: {all} is every address, so any client could forge its own; name the \
                 proxies' network"
            )));
        }
        if self.protocol && self.trusted.is_empty() {
            return Err(ConfigError::new(
                "`proxy_protocol`: only proxies in `trusted_proxies` may use it, but that is empty",
            ));
        }
        Ok(())
    }
}
