//! Derives the membership changes of events when a log is read from the store. They equal the changes that the writer
//! returned when it committed the events.

use rustc_hash::FxHashMap;
use serde::Deserialize;
use switchboard_protocol::{ConversationId, EventScope, MembershipEffect, Seq, UserId};

use super::CommittedEvent;
use crate::record::{ConversationKey, Effect, JoinOrLeave, LogEvent};

/// The membership changes that an event itself names.
#[derive(Default)]
struct JoinsAndLeaves {
    /// The first members of a new conversation.
    first_members: Vec<UserId>,
    /// A user who joined and may have been a member before.
    joiner: Option<UserId>,
    leaver: Option<UserId>,
}

/// The users that an event names.
#[derive(Deserialize)]
struct NamedUser {
    user: UserId,
    /// Whether the event is a ban of a user who was no member.
    #[serde(default)]
    absent: bool,
}

/// The first members of a new room without its creator.
#[derive(Deserialize)]
struct CreatedRoom {
    #[serde(default)]
    members: Vec<UserId>,
}

/// The user that the body of an event names, whose membership it changes.
fn named_user(body: &str) -> Option<UserId> {
    let named = serde_json::from_str::<NamedUser>(body).ok();
    named.filter(|named| !named.absent).map(|named| named.user)
}

fn joins_and_leaves(event: &LogEvent) -> JoinsAndLeaves {
    let mut joins_and_leaves = JoinsAndLeaves::default();
    match event.kind.membership() {
        MembershipEffect::Begins => {
            joins_and_leaves.first_members.push(event.from.clone());
            let members = serde_json::from_str::<CreatedRoom>(&event.body).map(|created| created.members);
            joins_and_leaves.first_members.extend(members.unwrap_or_default());
        }
        MembershipEffect::SenderEnters => joins_and_leaves.joiner = Some(event.from.clone()),
        MembershipEffect::UserEnters => joins_and_leaves.joiner = named_user(&event.body),
        MembershipEffect::SenderLeaves => joins_and_leaves.leaver = Some(event.from.clone()),
        MembershipEffect::UserLeaves => joins_and_leaves.leaver = named_user(&event.body),
        MembershipEffect::None if event.kind.scope() == EventScope::Message && event.seq == Seq(1) => {
            joins_and_leaves.first_members = peers_of(&event.conversation);
        }
        // No user is named: see [`CommittedEvent::ends_conversation`].
        MembershipEffect::None | MembershipEffect::Ends => {}
    }
    joins_and_leaves
}

/// The users of a direct conversation, of whom there is one if it is a note to self.
fn peers_of(conversation: &ConversationId) -> Vec<UserId> {
    let mut users: Vec<_> = conversation.peers().map(|(a, b)| vec![a, b]).unwrap_or_default();
    users.dedup();
    users
}

/// The users who joined by events of a page and may have been members before.
pub(super) fn joiners(events: &[LogEvent]) -> Vec<UserId> {
    events.iter().filter_map(|event| joins_and_leaves(event).joiner).collect()
}

/// Adds the membership changes to each event of a page. `gone` has the event by which each returning user left before the
/// page.
pub(super) fn with_effects(
    conversation: ConversationKey,
    events: Vec<LogEvent>,
    mut gone: FxHashMap<UserId, Seq>,
) -> Vec<CommittedEvent> {
    let told = events.into_iter().map(|event| {
        let effects = joins_and_leaves(&event).into_effects(&mut gone, event.seq);
        CommittedEvent {
            conversation,
            name: event.conversation.clone(),
            seq: event.seq,
            at: event.at,
            replaced: None,
            event: Some(event),
            effects,
            is_imported: false,
        }
    });
    told.collect()
}

impl JoinsAndLeaves {
    /// The membership changes of the event `seq`. `gone` has the last leave of each user so far, so call this in the order
    /// of the log.
    fn into_effects(self, gone: &mut FxHashMap<UserId, Seq>, seq: Seq) -> Vec<Effect> {
        let Self { first_members: begins, joiner: comes_back, leaver: goes } = self;
        let before = Seq(seq.0.saturating_sub(1));
        let begins =
            begins.into_iter().map(|user| Effect { user, join_or_leave: JoinOrLeave::Join { seen: Seq(0) } });
        let comes_back = comes_back.map(|user| {
            let seen = gone.get(&user).copied().unwrap_or(before);
            Effect { user, join_or_leave: JoinOrLeave::Join { seen } }
        });
        if let Some(user) = &goes {
            gone.insert(user.clone(), seq);
        }
        let goes = goes.map(|user| Effect { user, join_or_leave: JoinOrLeave::Leave });
        begins.chain(comes_back).chain(goes).collect()
    }
}
