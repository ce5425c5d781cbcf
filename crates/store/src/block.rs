//! Whom a user blocks, and what a reader sees of an event because of that.
//!
//! [`BlockList::view`] is the one decision about events, for every door: live events, replays, `sync`, `history` and the last
//! message of a summary. What is not an event (typing, cursors, presence, profiles) asks [`BlockList::contains`].

use rustc_hash::FxHashSet;
use serde::Deserialize;
use switchboard_protocol::{ConversationId, EventKind, Seq, Timestamp, UserId};

/// The users whom a user blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockList {
    /// How often the list has changed. 0 means that the user has never blocked anyone.
    pub version: u64,
    /// The blocked users.
    pub users: FxHashSet<UserId>,
}

/// What a reader sees of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The event as it is.
    Whole,
    /// That there is an event, and nothing of its content.
    Withheld,
}

impl BlockList {
    /// Whether a user is blocked.
    pub fn contains(&self, user: &UserId) -> bool {
        !self.users.is_empty() && self.users.contains(user)
    }

    /// What the list's owner sees of an event of this `type` by `from`. An event of a newer version, whose fields this version does
    /// not know, is withheld, because it may have content. Events of a room are not, because they change what a client shows.
    pub fn view(&self, kind: &str, from: &UserId) -> View {
        if !self.contains(from) {
            return View::Whole;
        }
        let known = EventKind::ALL.iter().find(|known| known.as_str() == kind);
        match known {
            Some(EventKind::Message | EventKind::Edit | EventKind::React) => View::Withheld,
            Some(_) => View::Whole,
            None if kind == EventKind::Unreadable.as_str() => View::Whole,
            None => View::Withheld,
        }
    }

    /// Whether the list's owner sees nothing of a conversation: of a direct one with a blocked user.
    pub fn hides(&self, conversation: &ConversationId) -> bool {
        !self.users.is_empty()
            && conversation.peers().is_some_and(|(a, b)| self.contains(&a) || self.contains(&b))
    }
}

/// A stored change of whom a user blocks.
#[derive(Debug, Clone)]
pub struct CommittedBlock {
    /// The user who blocks.
    pub user: UserId,
    /// The other user.
    pub other: UserId,
    /// Whether the other user is blocked now.
    pub on: bool,
    /// How often the user's list has changed, this change included.
    pub version: u64,
}

/// The fields of an event that a reader sees even if it is withheld.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EventHead {
    /// The `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The conversation.
    pub conversation: ConversationId,
    /// The event's number in the log.
    pub seq: Seq,
    /// The user who made the event.
    pub from: UserId,
    /// When the event was stored.
    pub at: Timestamp,
}

impl EventHead {
    /// Reads the head of an event from its frame; `None` if the frame has none.
    pub fn read(frame: &str) -> Option<Self> {
        serde_json::from_str(frame).ok()
    }

    /// The frame that stands in place of the event. Ids and types have no character that JSON escapes.
    pub fn withheld_json(&self) -> String {
        let Self { kind, conversation, seq, from, at } = self;
        format!(
            r#"{{"type":"withheld","conversation":"{conversation}","seq":{seq},"from":"{from}","at":"{at}","of":"{kind}","withheld":"blocked"}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("an id")
    }

    #[test]
    fn content_is_withheld_and_what_happens_to_a_room_is_not() {
        let blocked = BlockList { version: 1, users: FxHashSet::from_iter([user("mallory")]) };
        for (kind, view) in [
            ("message", View::Withheld),
            ("edit", View::Withheld),
            ("react", View::Withheld),
            ("delete", View::Whole),
            ("create", View::Whole),
            ("rename", View::Whole),
            ("leave", View::Whole),
            ("end", View::Whole),
            ("unreadable", View::Whole),
            ("poll", View::Withheld),
        ] {
            assert_eq!(blocked.view(kind, &user("mallory")), view, "{kind}");
            assert_eq!(blocked.view(kind, &user("alice")), View::Whole, "{kind}");
        }
        for kind in EventKind::ALL {
            let has_content = !matches!(kind, EventKind::Message | EventKind::Edit | EventKind::React);
            let view = if has_content { View::Whole } else { View::Withheld };
            assert_eq!(blocked.view(kind.as_str(), &user("mallory")), view, "decide about {kind:?}");
        }
    }

    #[test]
    fn a_withheld_event_has_the_head_of_the_event_and_nothing_else() {
        let frame = r##"{"type":"message","conversation":"#general","seq":7,"from":"mallory","at":"2026-11-23T12:00:00.000Z","key":"k","text":"secret"}"##;
        let head = EventHead::read(frame).expect("a head");
        let withheld = r##"{"type":"withheld","conversation":"#general","seq":7,"from":"mallory","at":"2026-11-23T12:00:00.000Z","of":"message","withheld":"blocked"}"##;
        assert_eq!(head.withheld_json(), withheld);
        let event: switchboard_protocol::Event = serde_json::from_str(withheld).expect("an event");
        let switchboard_protocol::EventBody::Withheld { of, withheld } = event.body else {
            panic!("{event:?}")
        };
        assert_eq!((of.as_str(), withheld.as_str()), ("message", "blocked"));
    }

    #[test]
    fn a_direct_conversation_is_hidden_and_a_room_is_not() {
        let blocked = BlockList { version: 1, users: FxHashSet::from_iter([user("mallory")]) };
        let name = |name: &str| ConversationId::parse(name).expect("an id");
        assert!(blocked.hides(&name("@bob:mallory")));
        assert!(!blocked.hides(&name("@alice:bob")));
        assert!(!blocked.hides(&name("#mallory")));
        assert!(!BlockList::default().hides(&name("@bob:mallory")));
    }
}
