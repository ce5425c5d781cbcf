//! What a store says about the changes of a committed batch.

use switchboard_protocol::{ConversationId, MembershipEffect, ReportId, Seq, Timestamp, UserId};

use crate::block::CommittedBlock;
use crate::origin::Origin;
use crate::profile::ShownProfile;
use crate::record::{ConversationKey, Effect, LogEvent};
use crate::refusal::Refusal;
use crate::request::CursorKind;

/// The outcome of a submission.
#[derive(Debug)]
pub struct Outcome {
    /// The session or request that gets the outcome.
    pub origin: Origin,
    /// The committed change, or the reason why it was refused.
    pub result: Result<Committed, Refusal>,
}

/// A change that is on stable storage.
#[derive(Debug)]
pub enum Committed {
    /// A stored event, or the earlier event that this write repeats.
    Event(Box<CommittedEvent>),
    /// A stored read or received position of a member.
    Cursor(CommittedCursor),
    /// Stored profiles.
    Profiles(Box<CommittedProfiles>),
    /// A user whom another one blocks now, or blocks no longer.
    Block(Box<CommittedBlock>),
    /// A stored report.
    Report(ReportId),
    /// A message that is held, now or since an earlier write that this one repeats.
    Held {
        /// The conversation of the message.
        conversation: ConversationId,
        /// Whether it was held before.
        duplicate: bool,
    },
    /// A stored import.
    Import(Box<CommittedImport>),
    /// A change that sends nothing to any session.
    NotAnnounced,
}

/// A stored import.
#[derive(Debug, Default)]
pub struct CommittedImport {
    /// How many lines are stored now.
    pub stored: u64,
    /// How many lines were stored before.
    pub duplicates: u64,
    /// The conversations that have new events.
    pub conversations: Vec<ImportedConversation>,
}

/// The new events of a conversation by an import. No session gets them.
#[derive(Debug)]
pub struct ImportedConversation {
    /// The conversation's key in the store.
    pub conversation: ConversationKey,
    /// The last event before the import.
    pub before: Seq,
    /// The last event now.
    pub head: Seq,
    /// The membership changes, each with its event, in the order of the log.
    pub effects: Vec<(Seq, Effect)>,
}

/// A stored event and what follows from it.
#[derive(Debug)]
pub struct CommittedEvent {
    /// The conversation's key in the store.
    pub conversation: ConversationKey,
    /// The conversation's name.
    pub name: ConversationId,
    /// The event's number in the log.
    pub seq: Seq,
    /// When the event was stored.
    pub at: Timestamp,
    /// The event as it is stored, if it differs from what the client requested, because the application has replaced it.
    pub replaced: Option<Box<LogEvent>>,
    /// The event to deliver; `None` if the write is a duplicate of a stored one.
    pub event: Option<LogEvent>,
    /// The membership changes that the event carries.
    pub effects: Vec<Effect>,
    /// Whether the event was imported. Then it is delivered to no session.
    pub is_imported: bool,
}

impl CommittedEvent {
    /// Whether the event ends the conversation: none of its members is one from here on, and no event follows.
    pub fn ends_conversation(&self) -> bool {
        self.event.as_ref().is_some_and(|event| event.kind.membership() == MembershipEffect::Ends)
    }
}

/// A member's stored read or received position.
#[derive(Debug)]
pub struct CommittedCursor {
    /// The conversation's key in the store.
    pub conversation: ConversationKey,
    /// The conversation's name.
    pub name: ConversationId,
    /// The member whose cursor this is.
    pub user: UserId,
    /// Which of the member's two cursors: `read` or `received`.
    pub kind: CursorKind,
    /// The new position.
    pub upto: Seq,
    /// Whether the command advanced the cursor; otherwise the cursor had been there or further already.
    pub has_moved: bool,
    /// Whether only the user's own devices learn of it: in a direct conversation in which the users have not both written.
    pub is_private: bool,
    /// How many members the conversation has.
    pub members: u64,
    /// Members who do not learn of it, because one of the two users blocks the other.
    pub hidden_from: Vec<UserId>,
}

/// Stored profiles.
#[derive(Debug)]
pub struct CommittedProfiles {
    /// If a user has changed their own profile: the user, and the profile's version.
    pub own: Option<(UserId, u64)>,
    /// The profiles of which other users see a difference.
    pub changed: Vec<ShownProfile>,
}
