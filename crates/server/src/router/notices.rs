//! Notices between nodes: what this router publishes, and what it does with what it receives.

use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Seq, Signal, UserId};
use tokio::time::Instant;

use super::Router;
use super::order::Arrival;
use crate::bus::{Address, BusEvent, NodeId, Notice};
use crate::frame;
use switchboard_store::record::{ConversationKey, Effect, Passage};

/// Up to so many users who join by one event, their nodes receive it at the addresses of these users. With more, every node
/// receives it.
const MAX_ADDRESSED_USERS: usize = 64;

impl Router {
    /// Publishes an event that this node stored to the nodes of the conversation's members and of the users who join by it.
    pub(super) fn tell_event(
        &self,
        conversation: ConversationKey,
        name: &ConversationId,
        seq: Seq,
        json: String,
        effects: &[Effect],
    ) {
        let Some(peers) = &self.peers else { return };
        let Ok(frame) = RawValue::from_string(json) else { return };
        let notice =
            Notice::Event { conversation, name: name.clone(), seq, frame, effects: effects.to_vec() };
        peers.bus.publish(&Address::Conversation(conversation), &notice);
        // Their nodes may not have subscribed to the conversation yet.
        let newcomers = || effects.iter().filter(|effect| effect.passage != Passage::Out);
        if newcomers().count() > MAX_ADDRESSED_USERS {
            peers.bus.publish(&Address::Nodes, &notice);
        } else {
            for effect in newcomers() {
                peers.bus.publish(&Address::User(effect.user.clone()), &notice);
            }
        }
    }

    /// Publishes a signal to the nodes of a conversation's members; with `own`, to those of the user's own devices.
    pub(super) fn publish_signal(
        &self,
        signal: &Signal,
        user: &UserId,
        conversation: ConversationKey,
        own: bool,
    ) {
        let Some(peers) = &self.peers else { return };
        let Ok(frame) = serde_json::value::to_raw_value(signal) else { return };
        let address = if own { Address::User(user.clone()) } else { Address::Conversation(conversation) };
        peers.bus.publish(&address, &Notice::Signal { conversation, own, user: user.clone(), frame });
    }

    /// Publishes to the nodes of a user that the tokens of the user were revoked.
    pub(super) fn publish_revoked(&self, user: &UserId) {
        if let Some(peers) = &self.peers {
            peers.bus.publish(&Address::User(user.clone()), &Notice::Revoke { user: user.clone() });
        }
    }

    /// Publishes that no user is online on this node any more.
    pub(super) fn publish_stopped(&self) {
        if let Some(peers) = &self.peers {
            peers.bus.publish(&Address::Nodes, &Notice::Stopped);
        }
    }

    pub(super) fn receive(&mut self, event: BusEvent) {
        match event {
            BusEvent::Notice(node, notice) => {
                self.presence.node_is_alive(node);
                self.apply_notice(node, notice);
            }
            BusEvent::Subscribed(addresses) => {
                for address in addresses {
                    self.on_subscribed(&address);
                }
            }
            BusEvent::Gap => {
                self.verify_all();
                self.presence.mark_stale(None);
                // Notices that this node published meanwhile may be lost as well.
                if let Some(peers) = &self.peers {
                    peers.bus.publish(&Address::Nodes, &Notice::Resync);
                }
            }
        }
    }

    fn apply_notice(&mut self, node: NodeId, notice: Notice) {
        match notice {
            Notice::Event { conversation, name, seq, frame, effects } => {
                if self.registry.applied(conversation).is_some() {
                    if !effects.is_empty() {
                        // Memberships decide who receives later events, so they come from the database only.
                        return self.read_up_to(conversation, seq);
                    }
                    let frame = frame::text(frame.get());
                    let stored = Instant::now();
                    self.arrive(conversation, Arrival { name, seq, frame, own: None, effects, stored });
                } else {
                    // This may be an old notice that arrives late, so the store is asked whether they are members.
                    for effect in effects.iter().filter(|effect| effect.passage != Passage::Out) {
                        self.suspect_membership(&effect.user, conversation);
                    }
                }
            }
            Notice::Signal { conversation, own, user, frame } => {
                self.forward_signal(conversation, own.then_some(&user), &frame);
            }
            // This may be an old notice, too, and the user may have a new token.
            Notice::Revoke { user } => self.suspect_revoked(&user),
            Notice::Presence { user, last_seen, conversations, number } => {
                let registry = &self.registry;
                self.presence.apply_remote_change(registry, node, &user, last_seen, &conversations, number);
            }
            Notice::PresenceQuery { user } => self.presence.answer_query(&self.registry, &user),
            Notice::Heartbeat => {}
            Notice::Resync => self.presence.mark_stale(Some(node)),
            Notice::Stopped => self.presence.node_lost(&self.registry, node, self.clock.now()),
        }
    }

    fn forward_signal(&mut self, conversation: ConversationKey, own: Option<&UserId>, frame: &RawValue) {
        // It may refer to events that wait.
        self.release();
        let frame = frame::text(frame.get());
        let Some(user) = own else {
            return self.registry.sessions_in(conversation).for_each(|outbox| outbox.push_signal(&frame));
        };
        // The user may have left the conversation meanwhile.
        let user = self.registry.find(user).filter(|user| self.registry.is_member(*user, conversation));
        for outbox in user.into_iter().flat_map(|user| self.registry.live_sessions(user)) {
            outbox.push_signal(&frame);
        }
    }

    /// Handles that a subscription is active: notices that were published before may have been missed.
    fn on_subscribed(&mut self, address: &Address) {
        let Some(peers) = &mut self.peers else { return };
        match address {
            Address::Conversation(conversation) if self.registry.applied(*conversation).is_some() => {
                peers.unchecked.insert(*conversation);
            }
            Address::Conversation(_) => {}
            Address::User(user) => {
                self.suspect(user);
                // A node whose query was published before this subscription, and which subscribed to the user only after this node
                // had published, has received neither.
                self.presence.answer_query(&self.registry, user);
            }
            Address::Watched(user) => self.presence.query(user),
            Address::Nodes => peers.bus.publish(&Address::Nodes, &Notice::Heartbeat),
        }
    }

    /// Publishes a heartbeat, and removes the nodes that have sent none.
    pub(super) fn heartbeat(&mut self) {
        let Some(peers) = &self.peers else { return };
        peers.bus.publish(&Address::Nodes, &Notice::Heartbeat);
        self.presence.expire_nodes(&self.registry, peers.lease, self.clock.now());
    }
}

#[cfg(test)]
mod tests;
