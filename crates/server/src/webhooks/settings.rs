//! What an operator sets of a webhook.

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Limits, UserId};
use switchboard_store::feed::FeedPart;
use url::Url;
use wildmatch::WildMatch;

use crate::http_client::target::Allowed;

/// The most headers of a webhook.
const MAX_HEADERS: usize = 16;

/// The longest header.
const MAX_HEADER_BYTES: usize = 1_024;

/// The longest URL.
const MAX_URL_BYTES: usize = 2_048;

/// The most patterns of conversations.
const MAX_PATTERNS: usize = 64;

/// The headers that a request has anyway, or that would change how it is sent.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A field that is wrong, and what is wrong with it.
type Wrong = (&'static str, String);

/// Where a webhook sends, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The URL that gets the entries.
    pub(crate) url: String,
    /// The types of entries; all but those of the audit log if it is empty.
    #[serde(default)]
    pub(crate) types: Vec<String>,
    /// The conversations, as patterns of their ids; all if it is empty.
    #[serde(default)]
    pub(crate) only: Vec<String>,
    /// Headers of each request.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether what was imported is sent, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) imported: bool,
}

impl Endpoint {
    /// The URL and the addresses that it may have.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub(super) fn target(&self, private: bool) -> Result<(Url, Allowed), Wrong> {
        let url = Url::parse(&self.url).map_err(|e| ("url", e.to_string()))?;
        let allowed = Allowed::of(&url, private).and_then(|allowed| {
            allowed.check_address(&url)?;
            Ok(allowed)
        });
        Ok((url, allowed.map_err(|why| ("url", why.to_owned()))?))
    }

    /// Checks all settings.
    ///
    /// # Errors
    /// What is wrong, and in which field.
    pub(crate) fn check(&self, private: bool) -> Result<(), Wrong> {
        let (url, _) = self.target(private)?;
        if self.url.len() > MAX_URL_BYTES {
            return Err(("url", format!("at most {MAX_URL_BYTES} bytes")));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err((
                "url",
                "put credentials into a header, because URLs are logged and listed".to_owned(),
            ));
        }
        if self.types.len() > Limits::FEED_TYPES {
            return Err(("types", format!("at most {}", Limits::FEED_TYPES)));
        }
        if self.only.len() > MAX_PATTERNS || self.only.iter().any(|pattern| pattern.len() > 256) {
            return Err(("only", format!("at most {MAX_PATTERNS} patterns of 256 bytes")));
        }
        self.header_map().map(drop)
    }

    /// The headers of each request.
    pub(super) fn header_map(&self) -> Result<HeaderMap, Wrong> {
        let mut headers = HeaderMap::new();
        if self.headers.len() > MAX_HEADERS {
            return Err(("headers", format!("at most {MAX_HEADERS}")));
        }
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            if RESERVED.contains(&lower.as_str()) || lower.starts_with("webhook-") {
                return Err(("headers", format!("{name} is set by the server")));
            }
            let name =
                HeaderName::try_from(lower).map_err(|_| ("headers", format!("{name:?} is no name")))?;
            let fits = value.len() <= MAX_HEADER_BYTES;
            let mut value = HeaderValue::try_from(value.as_str()).ok().filter(|_| fits).ok_or_else(|| {
                ("headers", format!("the value of {name} is too long or has control characters"))
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// Whether an entry of the audit log is wanted.
    pub(super) fn reads_audit(&self) -> bool {
        self.types.iter().any(|kind| kind.starts_with("audit."))
    }
}

/// Which conversations a webhook is for.
#[derive(Debug)]
pub(super) struct Only(Vec<WildMatch>);

impl Only {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        Self(endpoint.only.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }

    /// Whether an entry is wanted. With patterns, entries that are in no conversation are not.
    pub(super) fn wants(&self, conversation: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(conversation))
    }
}

/// The prefix of the lanes of entries that are about a user and in no conversation.
const USER_LANE: &str = "user ";

/// What is read of an entry.
#[derive(Debug)]
pub(super) struct ReadEntry {
    pub(super) number: u64,
    /// The conversation that it is in; empty if it is in none.
    pub(super) conversation: String,
    user: Option<String>,
}

impl ReadEntry {
    /// Reads an entry; `None` if it is not one of the feed.
    pub(super) fn of(entry: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event {
            conversation: String,
        }
        #[derive(Deserialize)]
        struct Entry {
            id: String,
            event: Option<Event>,
            user: Option<String>,
        }
        let Entry { id, event, user } = serde_json::from_str(entry.get()).ok()?;
        let number = id.rsplit_once('-')?.1.parse().ok()?;
        Some(Self { number, conversation: event.map(|event| event.conversation).unwrap_or_default(), user })
    }

    /// Its lane: the conversation, or the user whom it is about, so that one that is refused holds up no other.
    pub(super) fn lane(&self) -> String {
        match &self.user {
            Some(user) if self.conversation.is_empty() => format!("{USER_LANE}{user}"),
            _ => self.conversation.clone(),
        }
    }
}

/// The part of the feed that is in a lane.
pub(super) fn part_of_lane(lane: &str) -> FeedPart {
    let part = match lane.strip_prefix(USER_LANE) {
        Some(user) => UserId::parse(user).map(FeedPart::User),
        None => ConversationId::parse(lane).map(FeedPart::Conversation),
    };
    part.unwrap_or(FeedPart::Rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_with_the_field() {
        let endpoint = |url: &str, header: &str| Endpoint {
            url: url.to_owned(),
            types: Vec::new(),
            only: Vec::new(),
            headers: BTreeMap::from([(header.to_owned(), "v".to_owned())]),
            imported: false,
        };
        for (url, header, wrong) in [
            ("https://shop.example/", "x-a", None),
            ("shop.example", "x-a", Some("url")),
            ("http://shop.example/", "x-a", Some("url")),
            ("https://10.0.0.1/", "x-a", Some("url")),
            ("https://a:b@shop.example/", "x-a", Some("url")),
            ("https://shop.example/", "Host", Some("headers")),
            ("https://shop.example/", "Webhook-Id", Some("headers")),
            ("https://shop.example/", "a b", Some("headers")),
        ] {
            let checked = endpoint(url, header).check(false);
            assert_eq!(checked.as_ref().err().map(|(field, _)| *field), wrong, "{checked:?}");
        }
    }
}
