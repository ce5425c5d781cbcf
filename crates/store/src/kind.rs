//! The kinds of stored events: those of this version and, by the table of kinds, those of newer ones.

use std::sync::Arc;

use switchboard_protocol::{EventKind, EventScope, MembershipEffect};

/// The kind of a stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A kind that this version knows.
    Known(EventKind),
    /// A kind of a newer version, as that version described it in the table of kinds.
    Newer(Arc<NewerKind>),
    /// The number of a newer version's kind, before it is looked up in the table of kinds.
    Number(i64),
}

/// A kind of events as the table of kinds describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerKind {
    number: i64,
    name: String,
    user_fields: Vec<String>,
}

impl Kind {
    /// The kind with this number in the store.
    pub(crate) fn from_number(number: i64) -> Self {
        match EventKind::from_number(number) {
            EventKind::Unreadable => Self::Number(number),
            kind => Self::Known(kind),
        }
    }

    /// The kind's number in the store.
    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Known(kind) => kind.number().into(),
            Self::Newer(kind) => kind.number,
            Self::Number(number) => *number,
        }
    }

    /// The kind, if this version knows it; otherwise [`EventKind::Unreadable`].
    pub fn known_kind(&self) -> EventKind {
        match self {
            Self::Known(kind) => *kind,
            Self::Newer(_) | Self::Number(_) => EventKind::Unreadable,
        }
    }

    /// The frame's `type`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Newer(kind) => &kind.name,
            kind => kind.known_kind().as_str(),
        }
    }

    /// Whether an event of this kind is a message, is about a message, or is about a room.
    pub(crate) fn scope(&self) -> EventScope {
        self.known_kind().scope()
    }

    /// The effect of the kind on memberships. For kinds of newer versions it is none, as this version knows no effect of
    /// theirs.
    pub(crate) fn membership(&self) -> MembershipEffect {
        self.known_kind().membership()
    }

    /// Whether events of this kind have a field that holds user ids.
    pub(crate) fn names_users(&self) -> bool {
        match self {
            Self::Known(kind) => kind.names_users(),
            Self::Newer(kind) => !kind.user_fields.is_empty(),
            Self::Number(_) => false,
        }
    }

    /// Whether this field of an event of this kind holds user ids.
    pub(crate) fn is_user_field(&self, field: &str) -> bool {
        match self {
            Self::Known(kind) => kind.user_fields().contains(&field),
            Self::Newer(kind) => kind.user_fields.iter().any(|name| name == field),
            Self::Number(_) => false,
        }
    }
}

impl From<EventKind> for Kind {
    fn from(kind: EventKind) -> Self {
        Self::Known(kind)
    }
}

/// A row of the table of kinds: number, name, and the names of the fields that hold user ids, as a JSON array.
pub(crate) type KindRow = (i16, &'static str, String);

impl NewerKind {
    /// A row of the table of kinds; `None` if it cannot be the `type` of a frame.
    pub(crate) fn from_row(number: i64, name: String, users: &str) -> Option<Self> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
        };
        let user_fields = serde_json::from_str(users).ok()?;
        is_name(&name).then_some(Self { number, name, user_fields })
    }

    /// The rows that this version adds to the table of kinds.
    pub(crate) fn own_rows() -> impl Iterator<Item = KindRow> {
        EventKind::ALL.iter().map(|kind| {
            let users = serde_json::Value::from(kind.user_fields()).to_string();
            (kind.number().into(), kind.as_str(), users)
        })
    }

    pub(crate) fn number(&self) -> i64 {
        self.number
    }
}
