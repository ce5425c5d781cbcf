//! Reports: what users report, and what moderators decide.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::event::is_false;
use crate::{ConversationId, Data, PersonName, Seq, Text, Timestamp, UserId};

/// A report: `r_` and its number.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReportId(pub u64);

impl ReportId {
    /// Reads an id; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("r_")?;
        let is_number = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| is_number).map(Self)
    }
}

impl fmt::Display for ReportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r_{}", self.0)
    }
}

impl Serialize for ReportId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReportId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a report is `r_` and its number"))
    }
}

impl JsonSchema for ReportId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ReportId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^r_[1-9][0-9]*$", "description": "A report." })
    }
}

/// Defines a closed list of words, each with its name on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $wire:literal,)* }) => {
        $(#[$doc])*
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$word_doc])* $word,)*
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $wire,)* }
            }

            /// Reads a word; `None` if it is not one of the list.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($wire => Some(Self::$word),)* _ => None }
            }
        }
    };
}

words! {
    /// Why a message or a user is reported.
    ReportReason {
        /// Unwanted advertising, or the same over and over.
        Spam = "spam",
        /// Insults, threats, harassment.
        Abuse = "abuse",
        /// Unwanted sexual content.
        Sexual = "sexual",
        /// Violence, or a call for it.
        Violence = "violence",
        /// A person may harm themselves.
        SelfHarm = "self_harm",
        /// Against the law.
        Illegal = "illegal",
        /// Anything else; `text` says what.
        Other = "other",
    }
}

words! {
    /// What a moderator decides about a report.
    ReportAction {
        /// Nothing is done.
        None = "none",
        /// The message is deleted.
        Delete = "delete",
        /// The held message is stored in the log.
        Release = "release",
        /// The held message is never stored in the log.
        Reject = "reject",
        /// The user is banned from the installation.
        Ban = "ban",
        /// The user only reads in the room.
        Silence = "silence",
        /// The user is removed from the room.
        Remove = "remove",
    }
}

words! {
    /// How far a report is.
    ReportState {
        /// No moderator has claimed it.
        Open = "open",
        /// A moderator has claimed it.
        Claimed = "claimed",
        /// It is decided.
        Done = "done",
    }
}

/// What was reported, as it was when it was first reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportSnapshot {
    /// The text of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// The data of the message, or of the user's profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// The message that it replies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// When the message was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PersonName>,
    /// The user's picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
}

/// What one user said about a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reporter {
    /// The user, whom only moderators see.
    pub user: UserId,
    /// Why.
    pub reason: ReportReason,
    /// In the user's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// How many users gave a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// The reason.
    pub reason: ReportReason,
    /// How many users gave it.
    pub count: u64,
}

/// A report in `reports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedReport {
    /// The report.
    pub report: ReportId,
    /// How far it is.
    pub state: ReportState,
    /// The user who is reported: the author of the message.
    pub user: UserId,
    /// The conversation of the message; absent if the user is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationId>,
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Seq>,
    /// Whether it is a held message, which no user has reported. It has no `target`, because it is not in the log.
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// What was reported. Absent where a key reads without text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<ReportSnapshot>,
    /// The reasons, the most frequent first.
    pub reasons: Vec<ReasonCount>,
    /// The first of those who reported it: at most 50.
    pub reporters: Vec<Reporter>,
    /// When it was first reported.
    pub at: Timestamp,
    /// The moderator who has claimed or decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moderator: Option<UserId>,
    /// When the moderator claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Timestamp>,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Timestamp>,
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ReportAction>,
    /// What the moderator noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        assert_eq!(ReportId::parse(&ReportId(17).to_string()), Some(ReportId(17)));
        for wrong in ["", "17", "r_", "r_0", "r_017", "r_+1", "R_1", "r_1a", "r_99999999999999999999"] {
            assert_eq!(ReportId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_words_are_those_of_the_wire() {
        let reason = ReportReason::SelfHarm;
        assert_eq!(serde_json::to_value(reason).expect("JSON"), reason.as_str());
        assert_eq!(ReportReason::parse("self_harm"), Some(reason));
    }
}
