//! The feed: everything that is committed, over all conversations, in one order.
//!
//! Every event, and every entry that is no event, has a number. Numbers are 1, 2, 3, … in the order of commits: a number is
//! never taken by a transaction that may still roll back. A page of the feed says which events some hundred numbers have.
//! docs/decisions/0053-feed-pages.md

pub(crate) mod runs;

use std::borrow::Cow;

use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};

use crate::grant::UserPattern;
use crate::key::{ConversationKey, UserKey, Via};

/// An entry's place: the event that it is, or none for an entry of the table of entries.
pub(crate) type Item = Option<(ConversationKey, Seq)>;

/// An entry that is no event.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its type, with a dot.
    pub(crate) kind: Cow<'static, str>,
    /// When it happened.
    pub(crate) at: Timestamp,
    /// The user whom it is about.
    pub(crate) user: Option<UserKey>,
    /// What made it.
    pub(crate) via: Via,
    /// The client's address, if a client made it.
    pub(crate) address: Option<String>,
    /// Its other fields: a JSON object.
    pub(crate) body: String,
}

/// Where a page of the feed begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FeedCursor {
    /// At the oldest entry that is kept.
    #[default]
    Beginning,
    /// After the newest entry.
    End,
    /// After an entry.
    After {
        /// The epoch of the feed.
        epoch: String,
        /// The entry's number.
        number: u64,
    },
}

impl FeedCursor {
    /// The most bytes of a cursor.
    pub const MAX_BYTES: usize = 64;

    /// Reads a cursor: `0`, `now`, or an entry's id.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => return Some(Self::Beginning),
            "now" => return Some(Self::End),
            _ => {}
        }
        let (epoch, number) = text.split_once('-')?;
        let is_epoch = (1..=Self::MAX_BYTES).contains(&text.len())
            && !epoch.is_empty()
            && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_epoch && is_number)?;
        Some(Self::After { epoch: epoch.to_owned(), number })
    }
}

/// A part of the feed whose entries are in order among themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedPart {
    /// The events of a conversation.
    Conversation(ConversationId),
    /// The entries about a user that are no events.
    User(UserId),
    /// The entries that are no events and about no user.
    Rest,
}

/// A query of the feed.
#[derive(Debug, Clone, Default)]
pub struct FeedQuery {
    /// Where the page begins.
    pub after: FeedCursor,
    /// The most entries.
    pub limit: u32,
    /// The types of entries; all if it is empty.
    pub types: Vec<String>,
    /// Only conversations with such a member, and such users.
    pub acts_as: Option<UserPattern>,
    /// Whether events come without their content.
    pub no_text: bool,
    /// Whether entries of the audit log and addresses are read.
    pub is_admin: bool,
    /// Only this part of the feed; all of it if there is none.
    pub part: Option<FeedPart>,
    /// Whether what was imported is left out.
    pub skips_imported: bool,
}

/// A page of the feed.
#[derive(Debug, Clone)]
pub struct FeedPage {
    /// The epoch of the feed.
    pub epoch: String,
    /// The entries, oldest first.
    pub entries: Vec<Box<RawValue>>,
    /// The number after which the next page begins.
    pub next: u64,
    /// Whether there are more entries already.
    pub more: bool,
}

impl FeedPage {
    /// The cursor after an entry, which is also the entry's id.
    pub fn cursor(epoch: &str, number: u64) -> String {
        format!("{epoch}-{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let after = |number| Some(FeedCursor::After { epoch: "0a1f".to_owned(), number });
        assert_eq!(FeedCursor::parse(&FeedPage::cursor("0a1f", 77)), after(77));
        assert_eq!(FeedCursor::parse("0"), Some(FeedCursor::Beginning));
        assert_eq!(FeedCursor::parse("now"), Some(FeedCursor::End));
        for wrong in ["", "1", "-", "a-", "-1", "a-+1", "a--1", "a-1-2", "é-1", "a-99999999999999999999"] {
            assert_eq!(FeedCursor::parse(wrong), None, "{wrong}");
        }
    }
}
