//! What nodes tell each other: a router's own news go out here, and what it hears comes in.

use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Seq, Signal, UserId};
use tokio::time::Instant;

use super::Router;
use super::order::Arrival;
use crate::bus::{Address, BusEvent, NodeId, Notice};
use crate::frame;
use switchboard_store::record::{ConversationKey, Effect, Passage};

/// Users who come in by one event and are told of one by one. Where there are more, every node is told.
const FEW: usize = 64;

impl Router {
    /// Tells the nodes on which a conversation's members are, and those of whoever comes in, of an event that this node stored.
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
        // Their nodes may not listen there yet.
        let newcomers = || effects.iter().filter(|effect| effect.passage != Passage::Out);
        if newcomers().count() > FEW {
            peers.bus.publish(&Address::Nodes, &notice);
        } else {
            for effect in newcomers() {
                peers.bus.publish(&Address::User(effect.user.clone()), &notice);
            }
        }
    }

    /// Tells the nodes of a conversation's members of something that does not last; with `own`, those of the user's own
    /// devices.
    pub(super) fn tell_signal(
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

    /// Tells the nodes that a user is connected to that their tokens were revoked.
    pub(super) fn tell_revoked(&self, user: &UserId) {
        if let Some(peers) = &self.peers {
            peers.bus.publish(&Address::User(user.clone()), &Notice::Revoke { user: user.clone() });
        }
    }

    /// Tells every node that nobody is online here any more.
    pub(super) fn tell_gone(&self) {
        if let Some(peers) = &self.peers {
            peers.bus.publish(&Address::Nodes, &Notice::Stopped);
        }
    }

    pub(super) fn hear(&mut self, heard: BusEvent) {
        match heard {
            BusEvent::Notice(node, notice) => {
                self.presence.heard_from(node);
                self.take_in(node, notice);
            }
            BusEvent::Subscribed(addresses) => {
                for address in addresses {
                    self.listens(&address);
                }
            }
            BusEvent::Gap => {
                self.doubt_all();
                self.presence.doubt(None);
                // What this node told meanwhile may have been lost as well.
                if let Some(peers) = &self.peers {
                    peers.bus.publish(&Address::Nodes, &Notice::Resync);
                }
            }
        }
    }

    fn take_in(&mut self, node: NodeId, notice: Notice) {
        match notice {
            Notice::Event { conversation, name, seq, frame, effects } => {
                if self.registry.placed(conversation).is_some() {
                    if !effects.is_empty() {
                        // Who is a member decides who receives what follows, so it is taken from the database alone.
                        return self.read_up_to(conversation, seq);
                    }
                    let frame = frame::text(frame.get());
                    let stored = Instant::now();
                    self.arrive(conversation, Arrival { name, seq, frame, own: None, effects, stored });
                } else {
                    // It may be an old notice that comes late: whether they are in is for the store to say.
                    for effect in effects.iter().filter(|effect| effect.passage != Passage::Out) {
                        self.suspect_entry(&effect.user, conversation);
                    }
                }
            }
            Notice::Signal { conversation, own, user, frame } => {
                self.pass_on_signal(conversation, own.then_some(&user), &frame);
            }
            // It may be an old notice, too, and the user may have a new token.
            Notice::Revoke { user } => self.suspect_revoked(&user),
            Notice::Presence { user, last_seen, conversations, number } => {
                let registry = &self.registry;
                self.presence.changed_elsewhere(registry, node, &user, last_seen, &conversations, number);
            }
            Notice::PresenceQuery { user } => self.presence.answer(&self.registry, &user),
            Notice::Heartbeat => {}
            Notice::Resync => self.presence.doubt(Some(node)),
            Notice::Stopped => self.presence.lost(&self.registry, node, self.clock.now()),
        }
    }

    fn pass_on_signal(&mut self, conversation: ConversationKey, own: Option<&UserId>, frame: &RawValue) {
        // It tells of events that were told before it.
        self.release();
        let frame = frame::text(frame.get());
        let Some(user) = own else {
            return self.registry.sessions_in(conversation).for_each(|outbox| outbox.push_signal(&frame));
        };
        // It comes late for somebody who has gone.
        let user = self.registry.find(user).filter(|user| self.registry.is_member(*user, conversation));
        for outbox in user.into_iter().flat_map(|user| self.registry.live_sessions(user)) {
            outbox.push_signal(&frame);
        }
    }

    /// From now on what is told at an address is heard. What was told until now may have been missed.
    fn listens(&mut self, address: &Address) {
        let Some(peers) = &mut self.peers else { return };
        match address {
            Address::Conversation(conversation) if self.registry.placed(*conversation).is_some() => {
                peers.unchecked.insert(*conversation);
            }
            Address::Conversation(_) => {}
            Address::User(user) => {
                self.suspect(user);
                // A node that asked before now who has the user, and listened only after this one had told, was not answered.
                self.presence.answer(&self.registry, user);
            }
            Address::Watched(user) => self.presence.ask(user),
            Address::Nodes => peers.bus.publish(&Address::Nodes, &Notice::Heartbeat),
        }
    }

    /// Says that this node lives, and finds those that do not.
    pub(super) fn beat(&mut self) {
        let Some(peers) = &self.peers else { return };
        peers.bus.publish(&Address::Nodes, &Notice::Heartbeat);
        self.presence.expire_nodes(&self.registry, peers.lease, self.clock.now());
    }
}

#[cfg(test)]
mod tests;
