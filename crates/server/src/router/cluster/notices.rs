//! Notices between nodes: publishes those of this router, and handles those of the others.

use serde_json::value::RawValue;
use switchboard_protocol::{Signal, UserId};
use tokio::time::Instant;

use super::Cluster;
use crate::bus::{Address, BusEvent, NodeId, Notice};
use crate::frame;
use crate::nodes::NodeStatus;
use crate::router::LocalNode;
use crate::router::apply::ArrivedEvent;
use crate::router::presence::RemoteChange;
use switchboard_store::profile::ShownProfile;
use switchboard_store::record::{ConversationKey, JoinOrLeave};
use switchboard_store::rename::RenamedConversations;

/// If at most this number of users join by an event, the event is published to the address of each of them. If more users join, it
/// is published to all nodes.
const MAX_ADDRESSED_USERS: usize = 64;

/// How many renamed conversations one notice has: some 80 KB, which every bus takes.
const RENAMED_PER_NOTICE: usize = 500;

/// How far the clock of another node may be ahead before the log has a warning. Members see times that far in the future. NTP keeps
/// clocks within milliseconds of each other.
const MAX_CLOCK_LEAD_MS: i64 = 1_000;

impl Cluster {
    /// Publishes an event that this node stored, to the nodes of the conversation's members and of the users who join by the event.
    pub(super) fn publish_event(&self, conversation: ConversationKey, arrival: &ArrivedEvent, json: String) {
        let ArrivedEvent { name, seq, effects, ends, .. } = arrival;
        let Ok(frame) = RawValue::from_string(json) else { return };
        let (name, effects) = (name.clone(), effects.clone());
        let notice = Notice::Event { conversation, name, seq: *seq, frame, effects, ends: *ends };
        self.bus.publish(&Address::Conversation(conversation), &notice);
        // The nodes of users who join may not have subscribed to the conversation yet.
        let newcomers = || arrival.effects.iter().filter(|effect| effect.join_or_leave != JoinOrLeave::Leave);
        if newcomers().count() > MAX_ADDRESSED_USERS {
            self.bus.publish(&Address::Nodes, &notice);
        } else {
            for effect in newcomers() {
                self.bus.publish(&Address::User(effect.user.clone()), &notice);
            }
        }
    }

    /// Publishes a signal to the nodes of a conversation's members. If `own`, only to the nodes of the user's own devices.
    pub(in crate::router) fn publish_signal(
        &self,
        signal: &Signal,
        (user, hidden_from): (&UserId, &[UserId]),
        conversation: ConversationKey,
        own: bool,
    ) {
        let Ok(frame) = serde_json::value::to_raw_value(signal) else { return };
        let address = if own { Address::User(user.clone()) } else { Address::Conversation(conversation) };
        let (user, hidden_from) = (user.clone(), hidden_from.to_vec());
        self.bus.publish(&address, &Notice::Signal { conversation, own, user, frame, hidden_from });
    }

    /// Publishes to the nodes of a user that the tokens of the user were revoked, or that the user was banned.
    pub(in crate::router) fn publish_revoked(&self, user: &UserId) {
        self.bus.publish(&Address::User(user.clone()), &Notice::Revoke { user: user.clone() });
    }

    /// Publishes a signal to the nodes of one user.
    pub(in crate::router) fn publish_private(&self, user: &UserId, signal: &Signal) {
        let Ok(frame) = serde_json::value::to_raw_value(signal) else { return };
        self.bus.publish(&Address::User(user.clone()), &Notice::Private { user: user.clone(), frame });
    }

    /// Publishes to all nodes that direct conversations have other ids.
    pub(in crate::router) fn publish_renamed(
        &self,
        (user, to): (&UserId, &UserId),
        conversations: &RenamedConversations,
    ) {
        let user = Some((user.clone(), to.clone()));
        self.bus.publish(&Address::Nodes, &Notice::Renamed { conversations: Vec::new(), user });
        for some in conversations.chunks(RENAMED_PER_NOTICE) {
            self.bus.publish(&Address::Nodes, &Notice::Renamed { conversations: some.to_vec(), user: None });
        }
    }

    /// Publishes a changed profile to all nodes.
    pub(in crate::router) fn publish_profile(&self, shown: &ShownProfile) {
        let (profile, hidden_from) = (Box::new(shown.profile.clone()), shown.hidden_from.clone());
        self.bus.publish(&Address::Profiles, &Notice::Profile { profile, hidden_from });
    }

    /// Publishes that no user is online on this node any more.
    pub(in crate::router) fn publish_stopped(&self) {
        self.bus.publish(&Address::Nodes, &Notice::Stopped);
    }

    pub(super) fn receive(&mut self, node: &mut LocalNode, event: BusEvent) {
        match event {
            BusEvent::Notice(from, notice) => {
                if node.presence.record_heartbeat(from) {
                    self.publish_status(node);
                }
                self.apply_notice(node, from, notice);
            }
            BusEvent::Subscribed(addresses) => {
                for address in addresses {
                    self.on_subscribed(node, &address);
                }
            }
            BusEvent::Gap => {
                self.compare_all_users(node);
                node.presence.mark_stale(None);
                self.compare_profiles(node);
                // Notices that this node published during the gap may be lost as well.
                self.bus.publish(&Address::Nodes, &Notice::Resync);
            }
        }
    }

    fn apply_notice(&mut self, node: &mut LocalNode, from: NodeId, notice: Notice) {
        match notice {
            Notice::Event { conversation, name, seq, frame, effects, ends } => {
                if node.registry.applied_seq(conversation).is_some() {
                    if ends || !effects.is_empty() {
                        // Memberships decide who receives later events, so membership changes are read from the database only.
                        return self.read_up_to(node, conversation, seq);
                    }
                    let frame = Some(frame::text(frame.get()));
                    let stored = Instant::now();
                    self.accept_event(
                        node,
                        conversation,
                        ArrivedEvent { name, seq, frame, sender: None, effects, ends, learned_at: stored },
                    );
                } else {
                    // This may be an old notice that arrives late, so the store is asked whether they are members.
                    for effect in effects.iter().filter(|effect| effect.join_or_leave != JoinOrLeave::Leave) {
                        self.query_membership_when_loaded(node, &effect.user, conversation);
                    }
                }
            }
            Notice::Signal { conversation, own, user, frame, hidden_from } => {
                forward_signal(node, conversation, (&user, own, &hidden_from), &frame);
            }
            Notice::Blocks { user } => self.query_blocks_of(node, &user),
            Notice::Private { user, frame } => node.send_private(&user, &frame::text(frame.get())),
            // This may be an old notice that arrives late, and the user may have a new token, so the store is queried.
            Notice::Revoke { user } => self.query_revocation_of(node, &user),
            Notice::Renamed { conversations, user } => {
                node.forget_names(&conversations);
                if user.is_some() {
                    self.query_all_blocks(node);
                }
            }
            Notice::Presence { user, last_seen, conversations, number, hidden_from } => {
                let registry = &node.registry;
                let change = RemoteChange { last_seen, conversations, number, hidden_from };
                node.presence.apply_remote_change(registry, from, &user, change);
            }
            Notice::PresenceQuery { user } => node.presence.answer_query(&node.registry, &user),
            Notice::Profile { profile, hidden_from } => {
                node.profile_changed(ShownProfile { profile: *profile, hidden_from });
            }
            Notice::Heartbeat => {}
            Notice::Resync => node.presence.mark_stale(Some(from)),
            Notice::Stopped => {
                node.presence.node_stopped(from);
                node.presence.remove_lost_node(&node.registry, from, node.clock.now());
                self.forget_node(node, from);
            }
            Notice::Question { number, question } => {
                // A question of a later version is not answered, and the operator sees which node has not answered.
                let answer = self.connections.answer_as_json(&question, &node.metrics);
                let Some(answer) = answer else { return };
                self.bus.publish(&Address::Status, &Notice::Answer { number, answer });
            }
            Notice::Answer { number, answer } => self.nodes.receive_answer(number, from, answer),
            Notice::Status { name, version, time } => {
                let lead = time.as_millis().saturating_sub(node.clock.now().as_millis());
                self.record_status(node, from, NodeStatus { name, version, ahead_ms: lead.max(0) });
            }
        }
    }

    /// Records what another node says of itself. If its clock is ahead of this node's clock, logs that at most once a minute. If its
    /// clock is behind, the other node logs the difference: a notice that arrives late looks the same as one of a clock that is
    /// behind, and only a clock that is ahead makes a time in the future.
    fn record_status(&mut self, node: &mut LocalNode, from: NodeId, status: NodeStatus) {
        let (name, ahead_ms) = (status.name.clone(), status.ahead_ms);
        let lead = self.nodes.record_status(from, status);
        node.metrics.set_clock_skew(lead);
        node.presence.set_node_name(from, &name);
        if ahead_ms > MAX_CLOCK_LEAD_MS
            && let Some(count) = self.clock_log.record_event()
        {
            let node = name;
            tracing::warn!(%node, node_id = %from, ahead_ms, count, "clock skew: another node's clock is ahead; compare the clocks");
        }
    }

    fn forget_node(&self, node: &LocalNode, gone: NodeId) {
        node.metrics.set_clock_skew(self.nodes.remove(gone));
    }

    /// Publishes what this node says of itself.
    fn publish_status(&self, node: &LocalNode) {
        let (name, version) = (self.connections.node().clone(), env!("CARGO_PKG_VERSION").to_owned());
        self.bus.publish(&Address::Status, &Notice::Status { name, version, time: node.clock.now() });
    }

    /// Called when a subscription has become active. Notices that were published before that may have been missed.
    fn on_subscribed(&mut self, node: &mut LocalNode, address: &Address) {
        match address {
            Address::Conversation(conversation) if node.registry.applied_seq(*conversation).is_some() => {
                self.heads_to_query.insert(*conversation);
            }
            Address::Conversation(_) => {}
            Address::User(user) => {
                self.compare_user_when_loaded(node, user);
                // Another node may have published a query before this subscription was active, and may have subscribed to the user
                // only after this node published their presence. It has received neither an answer nor the presence, so this node
                // publishes it again.
                node.presence.answer_query(&node.registry, user);
            }
            Address::Watched(user) => node.presence.query(user),
            Address::Nodes => self.bus.publish(&Address::Nodes, &Notice::Heartbeat),
            Address::Status => self.publish_status(node),
            Address::Profiles => self.compare_profiles(node),
        }
    }

    /// Publishes a heartbeat, and removes the nodes that have sent nothing for a lease.
    pub(super) fn publish_heartbeat(&self, node: &mut LocalNode) {
        self.bus.publish(&Address::Nodes, &Notice::Heartbeat);
        self.publish_status(node);
        let (now, connected) = (node.clock.now(), node.metrics.bus.connected.get() == 1);
        for gone in node.presence.expire_nodes(&node.registry, self.lease, now, connected) {
            self.forget_node(node, gone);
        }
    }
}

fn forward_signal(
    node: &mut LocalNode,
    conversation: ConversationKey,
    (user, own, hidden_from): (&UserId, bool, &[UserId]),
    frame: &RawValue,
) {
    // The signal may refer to coalesced events that still wait, so they are delivered first.
    node.flush_coalesced();
    let frame = frame::text(frame.get());
    if !own {
        return node.send_signal_to_members(conversation, (user, hidden_from), &frame, None);
    }
    // The user may have left the conversation since the signal was sent.
    let user = node.registry.find_user(user).filter(|user| node.registry.is_member(*user, conversation));
    for outbox in user.into_iter().flat_map(|user| node.registry.live_sessions(user)) {
        outbox.push_signal(&frame);
    }
}

#[cfg(test)]
mod tests;
