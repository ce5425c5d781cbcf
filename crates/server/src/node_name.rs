//! The name of a node, which an operator chooses: in the log, the metrics, the database's list of connections, and at other nodes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most characters of a name. A label of a host name has at most 63 (RFC 1035 section 2.3.4), and so has a name in PostgreSQL.
const MAX_CHARS: usize = 63;

/// The name of a node on a machine whose host name has no usable character.
const FALLBACK_NAME: &str = "node";

/// The name of a node: 1 to 63 ASCII letters, digits, dots, hyphens and underscores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// A text that is no name of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a node has 1 to {MAX_CHARS} ASCII letters, digits, dots, hyphens and underscores")]
pub struct InvalidNodeName;

impl NodeName {
    /// The machine's host name, with a hyphen in place of every character that a name cannot have.
    #[must_use]
    pub fn of_host() -> Self {
        Self::from_host_name(&rustix::system::uname().nodename().to_string_lossy())
    }

    fn from_host_name(host: &str) -> Self {
        let name: String =
            host.chars().map(|c| if is_allowed(c) { c } else { '-' }).take(MAX_CHARS).collect();
        Self(if name.is_empty() { FALLBACK_NAME.into() } else { name.into() })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

impl FromStr for NodeName {
    type Err = InvalidNodeName;

    fn from_str(text: &str) -> Result<Self, InvalidNodeName> {
        if text.is_empty() || text.len() > MAX_CHARS || !text.chars().all(is_allowed) {
            return Err(InvalidNodeName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_and_has_no_character_that_a_log_or_a_label_must_quote() {
        for good in ["a", "chat-1.example.com", "node_2", &"n".repeat(MAX_CHARS)] {
            assert_eq!(good.parse::<NodeName>().expect(good).as_str(), good);
        }
        for bad in ["", "two words", "a\n", "a\"b", "münchen", &"n".repeat(MAX_CHARS + 1)] {
            assert_eq!(bad.parse::<NodeName>(), Err(InvalidNodeName), "{bad:?}");
        }
    }

    #[test]
    fn every_host_name_is_made_a_valid_node_name() {
        for (host, name) in
            [("chat-1", "chat-1"), ("", "node"), ("my host", "my-host"), ("münchen", "m-nchen")]
        {
            assert_eq!(NodeName::from_host_name(host).as_str(), name);
        }
        assert_eq!(NodeName::from_host_name(&"n".repeat(253)).as_str().len(), MAX_CHARS);
        NodeName::of_host().as_str().parse::<NodeName>().expect("a name");
    }
}
