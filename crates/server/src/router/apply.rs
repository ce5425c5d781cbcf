//! Applies the events of conversations, one after the other: makes the membership changes of an event, and delivers the event.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{ConversationId, Seq, UserId};
use tokio::time::Instant;

use super::LocalNode;
use super::registry::{MembershipChange, UserSlot};
use crate::encode::encode;
use crate::frame;
use crate::outbox::{CoalescedEvent, Outbox};
use switchboard_store::CommittedEvent;
use switchboard_store::block::View;
use switchboard_store::record::{ConversationKey, Effect, JoinOrLeave};

/// An event that has arrived at this node and is not applied yet.
#[derive(Debug)]
pub(super) struct ArrivedEvent {
    pub(super) name: ConversationId,
    pub(super) seq: Seq,
    /// The frame to deliver; `None` for an imported event, which no session receives live.
    pub(super) frame: Option<Bytes>,
    /// The connection that sent the event. It receives `ok` instead of the event.
    pub(super) sender: Option<Arc<Outbox>>,
    /// The membership changes that the event makes.
    pub(super) effects: Vec<Effect>,
    /// Whether the event ends the conversation: none of its members is one from here on.
    pub(super) ends: bool,
    /// When this node learned of the event.
    pub(super) learned_at: Instant,
}

impl ArrivedEvent {
    /// Makes an arrival of an event from the store; `None` if the stored event could not be decoded.
    pub(super) fn from_store(committed: CommittedEvent) -> Option<Self> {
        let ends = committed.ends_conversation();
        let event = committed.event?;
        let frame = (!committed.is_imported).then(|| frame::text(&event.to_json_for(View::Whole)));
        let (name, seq, effects) = (committed.name, committed.seq, committed.effects);
        Some(Self { name, seq, frame, sender: None, effects, ends, learned_at: Instant::now() })
    }
}

impl LocalNode {
    /// Applies the next event of a conversation: makes its membership changes, and delivers it to the sessions.
    pub(super) fn apply_event(&mut self, conversation: ConversationKey, arrival: ArrivedEvent) {
        let ArrivedEvent { name, seq, frame, sender: own, effects, ends, learned_at: stored } = arrival;
        let Some(frame) = frame else {
            let effects = effects.into_iter().map(|effect| (seq, effect)).collect();
            return self.apply_imported(conversation, seq, effects);
        };
        self.recent.record(conversation, seq);
        let changes_members = ends || !effects.is_empty();
        if changes_members {
            self.flush_coalesced();
        }
        if !ends {
            self.announce_import(conversation, &name, seq);
        }
        // A user who joins receives the event of the join, and a user who leaves receives the event of the leave.
        for effect in &effects {
            if let JoinOrLeave::Join { seen } = effect.join_or_leave {
                self.join_member(&effect.user, conversation, &name, seen, seq);
            }
        }
        self.record_changes(conversation, seq, &effects);
        self.registry.set_applied(conversation, seq);
        self.coalesce(conversation, CoalescedEvent { seq, frame, sender: own, learned_at: stored });
        if changes_members {
            self.flush_coalesced();
        }
        for effect in effects.iter().filter(|effect| effect.join_or_leave == JoinOrLeave::Leave) {
            if let Some(user) = self.registry.find_user(&effect.user) {
                self.registry.remove_member(user, conversation, seq);
            }
        }
        if ends {
            self.registry.end_conversation(conversation, seq);
        }
    }

    /// Applies imported events up to `head`: makes their membership changes, each with its event. No session receives the events now. The
    /// next live event of the conversation comes after a lag of them, or after a `gap`.
    pub(super) fn apply_imported(
        &mut self,
        conversation: ConversationKey,
        head: Seq,
        effects: Vec<(Seq, Effect)>,
    ) {
        self.flush_coalesced();
        self.recent.record(conversation, head);
        for (seq, effect) in effects {
            if let (JoinOrLeave::Join { .. }, Some(user)) =
                (effect.join_or_leave, self.registry.find_user(&effect.user))
            {
                // Where others are connected, the imported events come with the next live one for all of them.
                let queued = self.registry.head(conversation).unwrap_or(Seq(seq.0.saturating_sub(1)));
                self.registry.add_member(user, conversation, queued);
            }
            self.record_changes(conversation, seq, &[effect]);
        }
        self.registry.set_applied(conversation, head);
    }

    /// Sends a `gap` before the live event `seq` if more was imported before it than sessions read from the log.
    fn announce_import(&mut self, conversation: ConversationKey, name: &ConversationId, seq: Seq) {
        let before = Seq(seq.0.saturating_sub(1));
        let replay = u64::from(self.limits.replay);
        let is_far = |head: Option<Seq>| head.filter(|head| before.0.saturating_sub(head.0) > replay);
        if is_far(self.registry.head(conversation)).is_none() {
            return;
        }
        // What waits to be coalesced comes before the import.
        self.flush_coalesced();
        let Some(after) = is_far(self.registry.head(conversation)) else { return };
        let gap = encode(&Reply::<Box<RawValue>>::Gap { conversation: name.clone(), after, head: before });
        for member in self.registry.members_here(conversation) {
            if self.registry.blocks_of(*member).is_none_or(|list| !list.hides(name)) {
                self.registry.live_sessions(*member).for_each(|outbox| outbox.push_reply(gap.clone()));
            }
        }
        self.registry.set_head(conversation, before);
    }

    /// Records membership changes for attaching sessions, whose snapshots may not contain them.
    pub(super) fn record_changes(&mut self, conversation: ConversationKey, seq: Seq, effects: &[Effect]) {
        for effect in effects {
            let user = self.registry.find_user(&effect.user).and_then(|user| self.registry.user_mut(user));
            if let Some(user) = user.filter(|user| user.attaching_sessions > 0) {
                let join_or_leave = effect.join_or_leave;
                user.changes_while_attaching.push(MembershipChange { conversation, seq, join_or_leave });
            }
        }
    }

    /// Adds a connected user to the members of a conversation that they joined by the event `seq`. A user who rejoins receives the
    /// events since they left, or a `gap` if there are too many.
    fn join_member(
        &mut self,
        user: &UserId,
        conversation: ConversationKey,
        name: &ConversationId,
        seen: Seq,
        seq: Seq,
    ) {
        let Some(slot) = self.registry.find_user(user) else { return };
        let before = Seq(seq.0 - 1);
        self.registry.add_member(slot, conversation, before);
        self.queue_missed_events(slot, conversation, name, seen, before);
    }

    /// Queues the events after `seen` up to `before` for the sessions of a user who joins. For a session that has not received
    /// everything up to `seen`, it queues the earlier events, too.
    pub(super) fn queue_missed_events(
        &mut self,
        user: UserSlot,
        conversation: ConversationKey,
        name: &ConversationId,
        seen: Seq,
        before: Seq,
    ) {
        let sessions = self.registry.user(user).map_or_else(Vec::new, |local| local.sessions.to_vec());
        for session in sessions {
            let Some(session) = self.registry.session_mut(session).filter(|session| session.is_live) else {
                continue;
            };
            let seen = session.take_received(conversation).map_or(seen, |told| told.min(seen));
            let missed = before.0.saturating_sub(seen.0);
            if missed == 0 {
                continue;
            }
            if missed <= u64::from(self.limits.replay) {
                session.outbox.push_lag(conversation, seen, before);
            } else {
                let gap =
                    Reply::<Box<RawValue>>::Gap { conversation: name.clone(), after: seen, head: before };
                session.outbox.push_reply(encode(&gap));
            }
        }
    }
}
