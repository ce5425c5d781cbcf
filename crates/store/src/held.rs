//! Held messages: the statements that both stores run, and what is known of a held message.
//!
//! A held message is an entry of the queue of reports, whose snapshot is the body of the message. The row in `held` has what the
//! queue has not: the key of its author, and where the message goes.

use switchboard_protocol::{ConversationId, UserId};

use crate::record::{ConversationKey, RequestDigest, UserKey, Via};
use crate::report::Fields;

/// What has become of a held message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldState {
    /// It waits for a decision.
    Waiting,
    /// It was stored in the log.
    Released,
    /// It is never stored in the log.
    Rejected,
}

impl HeldState {
    /// The stored number.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Released => 1,
            Self::Rejected => 2,
        }
    }

    /// The state with this number. What is unknown counts as rejected, so that nothing of it is shown.
    fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Waiting,
            1 => Self::Released,
            _ => Self::Rejected,
        }
    }
}

/// Where a held message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldFor {
    Room(ConversationKey),
    /// The direct conversation with a user, which need not exist yet.
    Direct(UserKey),
}

/// A held message.
#[derive(Debug, Clone)]
pub(crate) struct HeldMessage {
    pub(crate) author: UserKey,
    pub(crate) key: String,
    pub(crate) to: HeldFor,
    /// What has sent it.
    pub(crate) via: Via,
    pub(crate) state: HeldState,
    /// The body of the message; empty once it was removed.
    pub(crate) body: String,
    /// The digest of the request, if the application has replaced it.
    pub(crate) request: Option<RequestDigest>,
}

impl HeldMessage {
    /// Reads a row whose columns are [`held_columns`].
    pub(crate) fn from_row(row: &Fields) -> Self {
        let (conversation, peer) = (ConversationKey(row.number(0)), UserKey(row.number(1)));
        Self {
            author: UserKey(row.number(2)),
            key: row.text(3).unwrap_or_default().to_owned(),
            to: if peer.0 == 0 { HeldFor::Room(conversation) } else { HeldFor::Direct(peer) },
            via: Via(i32::try_from(row.number(4)).unwrap_or_default()),
            state: HeldState::from_number(row.number(5)),
            body: row.text(6).unwrap_or_default().to_owned(),
            request: row.text(7).and_then(read_hex),
        }
    }
}

/// The columns of a held message and of its report. Each is a number or a text.
macro_rules! held_columns {
    () => {
        r#"r.conversation, h.peer, h."user", h.key, h.via, h.state, r.snapshot, h.request"#
    };
}

pub(crate) use held_columns;

/// The held message of a user with a key.
pub(crate) const SELECT_BY_KEY: &str = concat!(
    "SELECT ",
    held_columns!(),
    r#" FROM held h JOIN reports r ON r.id = h.report WHERE h."user" = $1 AND h.key = $2"#
);

/// The held message of a report.
pub(crate) const SELECT_OF_REPORT: &str =
    concat!("SELECT ", held_columns!(), " FROM held h JOIN reports r ON r.id = h.report WHERE h.report = $1");

pub(crate) const COUNT_WAITING: &str = r#"SELECT count(*) FROM held WHERE "user" = $1 AND state = 0"#;

pub(crate) const INSERT_HELD: &str =
    r#"INSERT INTO held (report, "user", key, peer, via, request) VALUES ($1, $2, $3, $4, $5, $6)"#;

pub(crate) const SET_STATE: &str = "UPDATE held SET state = $1 WHERE report = $2";

/// The id of the conversation of a held message, by its report's row: that of the room, or of the direct conversation of its two
/// users, which need not exist.
pub(crate) fn conversation_of(
    user: &UserId,
    room: Option<&str>,
    peer: Option<&str>,
) -> Option<ConversationId> {
    match peer {
        Some(peer) => UserId::parse(peer).ok().map(|peer| ConversationId::direct(user, &peer)),
        None => room.and_then(|name| ConversationId::parse(name).ok()),
    }
}

/// A digest as the table has it: in hexadecimal digits.
pub(crate) fn hex(digest: &RequestDigest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_hex(text: &str) -> Option<RequestDigest> {
    let mut digest = RequestDigest::default();
    if text.len() != 2 * digest.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, place) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_was_written() {
        let digest = std::array::from_fn(|place| u8::try_from(place * 8).unwrap_or_default());
        assert_eq!(read_hex(&hex(&digest)), Some(digest));
        for wrong in ["", "00", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(read_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_conversation_is_that_of_the_room_or_of_the_two_users() {
        let bob = UserId::parse("bob").expect("an id");
        let named = |room, peer| conversation_of(&bob, room, peer).map(|id| id.as_str().to_owned());
        assert_eq!(named(Some("#r"), None).as_deref(), Some("#r"));
        assert_eq!(named(None, Some("alice")).as_deref(), Some("@alice:bob"));
        assert_eq!(named(None, None), None);
    }
}
