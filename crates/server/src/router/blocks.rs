//! Blocking: what reaches a user who blocks another one, and a user who is blocked.
//!
//! Each connected user has the list of whom they block, with a version (`registry/blocks.rs`). A change that this node has stored is
//! applied before its `ok`; another node sends a notice, upon which the list is read from the store, and each sweep compares the
//! versions (`cluster/blocks.rs`). A conversation knows its members here who block anyone. It nearly always has none, and then its events
//! take the path that they would take without this file.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Seq, Signal, UserId};
use switchboard_store::CommittedBlock;
use switchboard_store::block::{BlockList, EventHead, View};
use switchboard_store::origin::Origin;
use switchboard_store::record::ConversationKey;

use super::publish::{send_answer, sender_of};
use super::registry::{BlockStep, UserSlot};
use super::{LocalNode, Router};
use crate::encode::encode;
use crate::frame;
use crate::outbox::{CoalescedEvent, Outbox, join_frames};

impl Router {
    /// Applies a stored change, and answers it.
    pub(super) fn publish_block(&mut self, origin: Origin, change: &CommittedBlock) {
        let from = sender_of(&origin);
        let step = self.node.apply_block(change, from.as_ref());
        if let Some(cluster) = &mut self.cluster {
            cluster.publish_block(&change.user);
            if step == BlockStep::Gap {
                cluster.query_blocks_of(&self.node, &change.user);
            }
        }
        send_answer(origin, Ok(OkBody::Done {}));
    }
}

impl LocalNode {
    /// Applies a change of one user's list. The connection `from` gets its `ok` in place of the signal.
    fn apply_block(&mut self, change: &CommittedBlock, from: Option<&Arc<Outbox>>) -> BlockStep {
        let CommittedBlock { user, other, on, version } = change;
        let Some(slot) = self.registry.find_user(user) else { return BlockStep::NotNew };
        // What was published before is seen as before.
        self.flush_coalesced();
        let step = self.registry.change_blocks(slot, |blocks| blocks.apply(*version, other, *on));
        if step == BlockStep::Applied {
            self.after_block(slot, &[(other.clone(), *on)], from);
        }
        step
    }

    /// Takes a list that was read from the store.
    pub(super) fn apply_block_list(&mut self, user: UserSlot, list: BlockList) -> BlockStep {
        let Some(before) = self.registry.user(user).map(|local| local.blocks.list().clone()) else {
            return BlockStep::NotNew;
        };
        if before == list {
            // The usual case: the user blocks no one, and the list is known from now on.
            return self.registry.change_blocks(user, |blocks| blocks.adopt(list));
        }
        self.flush_coalesced();
        let step = self.registry.change_blocks(user, |blocks| blocks.adopt(list));
        let Some(local) = self.registry.user(user) else { return step };
        let after = local.blocks.list();
        let mut changes = Vec::new();
        // With the same version the list has not changed, but an id in it may have.
        if after.version != before.version {
            changes.extend(after.users.difference(&before.users).map(|other| (other.clone(), true)));
            changes.extend(before.users.difference(&after.users).map(|other| (other.clone(), false)));
        }
        self.after_block(user, &changes, None);
        step
    }

    /// Pages that a session has asked for before a change must not be queued after it. The user's other connections get a signal, and
    /// other nodes who may not see the user's presence.
    fn after_block(&mut self, user: UserSlot, changes: &[(UserId, bool)], from: Option<&Arc<Outbox>>) {
        let Some(local) = self.registry.user(user) else { return };
        for outbox in self.registry.all_sessions_of(&local.name) {
            outbox.begin_block_epoch();
        }
        for (other, on) in changes {
            let frame = encode(&Signal::Block { user: other.clone(), on: *on });
            for outbox in self.registry.live_sessions(user) {
                if !from.is_some_and(|from| Arc::ptr_eq(from, outbox)) {
                    outbox.push_signal(&frame);
                }
            }
        }
        self.presence.blocks_changed(&self.registry, user);
    }

    /// Queues a signal of a user for the sessions of a conversation's members, except the connection `from`, those in `hidden_from`, and
    /// those who block the user or are blocked.
    pub(super) fn send_signal_to_members(
        &self,
        conversation: ConversationKey,
        (user, hidden_from): (&UserId, &[UserId]),
        frame: &Bytes,
        from: Option<&Arc<Outbox>>,
    ) {
        let send = |outbox: &Arc<Outbox>| {
            if !from.is_some_and(|from| Arc::ptr_eq(from, outbox)) {
                outbox.push_signal(frame);
            }
        };
        if hidden_from.is_empty() && !self.registry.has_blocker(conversation) {
            return self.registry.sessions_in(conversation).for_each(send);
        }
        for member in self.registry.members_here(conversation) {
            if !self.registry.are_apart(*member, user, hidden_from) {
                self.registry.live_sessions(*member).for_each(send);
            }
        }
    }

    /// Queues events of a conversation for its sessions where a member here blocks other users. Returns how many were queued.
    pub(super) fn queue_where_some_block(
        &self,
        conversation: ConversationKey,
        head: Seq,
        events: &[CoalescedEvent],
        joined: Option<&Bytes>,
    ) -> u64 {
        let mut forms = Forms::new(events, joined);
        let missed = Seq(events.first().map_or(0, |event| event.seq.0.saturating_sub(1)));
        let mut delivered = 0;
        for user in self.registry.members_here(conversation) {
            let form = match self.registry.blocks_of(*user) {
                None => Some((events, joined)),
                Some(list) => forms.for_list(list),
            };
            for outbox in self.registry.live_sessions(*user) {
                let Some((events, joined)) = form else {
                    outbox.skip_events(conversation, events);
                    continue;
                };
                outbox.push_lag(conversation, head, missed);
                delivered += match joined {
                    Some(joined) => outbox.push_joined(conversation, events, joined),
                    None => outbox.push_events(conversation, events),
                };
            }
        }
        delivered
    }
}

/// The events of a batch in the forms in which users see them. Each event is encoded at most twice: whole, and withheld.
struct Forms<'e> {
    events: &'e [CoalescedEvent],
    joined: Option<&'e Bytes>,
    heads: Vec<Option<EventHead>>,
    withheld: Vec<Option<Bytes>>,
    /// The events with some withheld, by which those are.
    mixed: FxHashMap<Vec<bool>, (Vec<CoalescedEvent>, Option<Bytes>)>,
}

impl<'e> Forms<'e> {
    fn new(events: &'e [CoalescedEvent], joined: Option<&'e Bytes>) -> Self {
        let heads = events.iter().map(|event| EventHead::read(frame::payload(&event.frame)?)).collect();
        let withheld = vec![None; events.len()];
        Self { events, joined, heads, withheld, mixed: FxHashMap::default() }
    }

    /// The events as a user with this list sees them; `None` if the user sees nothing of the conversation.
    fn for_list(&mut self, list: &BlockList) -> Option<(&[CoalescedEvent], Option<&Bytes>)> {
        let Self { events, joined, heads, withheld, mixed } = self;
        if heads.first().and_then(Option::as_ref).is_some_and(|head| list.hides(&head.conversation)) {
            return None;
        }
        // An event whose head cannot be read may be anyone's. The server makes none.
        let views = heads.iter().map(|head| head.as_ref().map(|head| list.view(&head.kind, &head.from)));
        let is_withheld: Vec<bool> = views.map(|view| view != Some(View::Whole)).collect();
        if !is_withheld.contains(&true) {
            return Some((events, *joined));
        }
        let form = mixed.entry(is_withheld).or_insert_with_key(|is_withheld| {
            let mixed: Vec<_> = events
                .iter()
                .zip(is_withheld)
                .enumerate()
                .map(|(place, (event, is_withheld))| match (is_withheld, &heads[place]) {
                    (true, Some(head)) => {
                        let frame = withheld[place].get_or_insert_with(|| frame::text(&head.withheld_json()));
                        CoalescedEvent { frame: frame.clone(), ..event.clone() }
                    }
                    _ => event.clone(),
                })
                .collect();
            let joined = join_frames(&mixed);
            (mixed, joined)
        });
        Some((&form.0, form.1.as_ref()))
    }
}
