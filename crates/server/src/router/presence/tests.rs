//! Tests which sessions receive which presence when other nodes answer late or not at all.

use std::sync::Arc;

use bytes::Bytes;
use switchboard_protocol::{Limits, Seq};

use super::*;
use crate::bus::{NoBus, NodeId};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use switchboard_store::record::{Answer, ConversationKey};

const OTHER_NODE: NodeId = NodeId(7);
const ROOM: ConversationKey = ConversationKey(1);
const OTHER_ROOM: ConversationKey = ConversationKey(2);

fn name(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

/// One node of a cluster, with only the parts that presence needs.
struct Node {
    registry: Registry,
    presence: Presence,
    /// The number of the last notice of the other node.
    number: u64,
}

impl Node {
    fn new() -> Self {
        let presence = Presence::new(Duration::ZERO, Some(Arc::new(NoBus)));
        Self { registry: Registry::default(), presence, number: 0 }
    }

    /// Adds a session of a user who is a member of these conversations.
    fn connect(&mut self, user: &str, conversations: &[ConversationKey]) -> (SessionSlot, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(&Limits::default(), Arc::new(Metrics::new())));
        let user = self.registry.user_or_new(&name(user));
        let session = self.registry.add_session(user, outbox.clone());
        for conversation in conversations {
            self.registry.add_member(user, *conversation, Seq(1));
        }
        (session, outbox)
    }

    fn watch(&mut self, session: SessionSlot, user: &str) {
        let users = vec![PresencePeer { user: name(user), last_seen: None }];
        self.presence.watch(&mut self.registry, session, users);
    }

    fn leave(&mut self, session: SessionSlot) {
        let gone = self.registry.remove_session(session).expect("the session is connected");
        self.presence.unwatch(session, &gone.watching);
    }

    /// Brings the user online on this node.
    fn end_grace_period(&mut self, user: &str) {
        let slot = self.registry.find_user(&name(user)).expect("the user is connected");
        self.presence.session_became_live(&self.registry, slot);
    }

    /// Answers the queued lookups as a store in which each user is in `conversations`. Returns the users of the lookups.
    fn apply_store_answer(&mut self, conversations: &[ConversationKey]) -> Vec<UserId> {
        let asked = self.presence.take_lookups(10);
        let answer = |(user, mut lookup)| {
            self.presence.send_change_to_watchers(&self.registry, &user, &mut lookup, conversations);
            user
        };
        asked.into_iter().map(answer).collect()
    }

    fn other_node_publishes(&mut self, user: &str, last_seen: Option<Timestamp>, shared: &[ConversationKey]) {
        self.number += 1;
        self.other_node_notice_arrives(self.number, user, last_seen, shared);
    }

    /// Delivers a notice with this number from the other node.
    fn other_node_notice_arrives(
        &mut self,
        number: u64,
        user: &str,
        last_seen: Option<Timestamp>,
        shared: &[ConversationKey],
    ) {
        let registry = &self.registry;
        let conversations = shared.to_vec();
        let change = super::RemoteChange { last_seen, conversations, number, hidden_from: Vec::new() };
        self.presence.apply_remote_change(registry, OTHER_NODE, &name(user), change);
    }
}

/// Removes the queued frames from an outbox and returns them.
fn take_frames(outbox: &Outbox) -> Vec<Bytes> {
    let mut queued = std::collections::VecDeque::new();
    outbox.take_frames(0, &mut queued);
    queued.into_iter().map(|queued| queued.frame).collect()
}

/// The signal that a user is online, or offline since `last_seen`.
fn presence_frame(user: &str, last_seen: Option<Timestamp>) -> Bytes {
    encode(&Signal::Presence { user: name(user), online: last_seen.is_none(), last_seen })
}

/// A node on which alice and carol wait for an answer about bob. Then alice's session ends, and mallory's session reuses its slot.
/// Returns the node and the outboxes of carol and mallory.
fn with_a_reused_slot() -> (Node, Arc<Outbox>, Arc<Outbox>) {
    let mut node = Node::new();
    let (alice, _) = node.connect("alice", &[ROOM]);
    let (carol, carols) = node.connect("carol", &[ROOM]);
    node.watch(alice, "bob");
    node.watch(carol, "bob");
    node.leave(alice);
    let (_, mallorys) = node.connect("mallory", &[]);
    (node, carols, mallorys)
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_reach_a_session_that_reuses_the_slot_of_the_watcher() {
    let (mut node, carols, mallorys) = with_a_reused_slot();
    node.other_node_publishes("bob", None, &[ROOM]);
    assert_eq!(take_frames(&mallorys), Vec::<Bytes>::new(), "the answer to another session");
    assert_eq!(take_frames(&carols).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_query_time_out_does_not_reach_a_session_that_reuses_the_slot_of_the_watcher() {
    let (mut node, carols, mallorys) = with_a_reused_slot();
    node.presence.query_timed_out(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(take_frames(&mallorys), Vec::<Bytes>::new(), "the answer to another session");
    assert_eq!(take_frames(&carols).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_reach_a_watcher_who_left_the_conversation() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    let user = node.registry.find_user(&name("alice")).expect("alice is connected");
    node.registry.remove_member(user, ROOM, Seq(2));
    node.other_node_publishes("bob", None, &[ROOM]);
    assert_eq!(take_frames(&alices), Vec::<Bytes>::new());
}

#[tokio::test(start_paused = true)]
async fn users_of_a_dead_node_go_offline_only_for_watchers_who_still_share_a_conversation() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    let (carol, carols) = node.connect("carol", &[ROOM]);
    let at = Timestamp::from_millis(5);
    for session in [alice, carol] {
        node.watch(session, "bob");
    }
    node.other_node_publishes("bob", None, &[ROOM]);
    assert_eq!((take_frames(&alices).len(), take_frames(&carols).len()), (1, 1), "bob is online");
    let user = node.registry.find_user(&name("alice")).expect("alice is connected");
    node.registry.remove_member(user, ROOM, Seq(2));
    node.presence.remove_lost_node(&node.registry, OTHER_NODE, at);
    assert_eq!(take_frames(&carols).len(), 0, "the store is queried first");
    assert_eq!(node.apply_store_answer(&[ROOM]), [name("bob")]);
    assert_eq!((take_frames(&alices).len(), take_frames(&carols).len()), (0, 1));
    node.other_node_publishes("bob", None, &[ROOM]);
    node.presence.remove_lost_node(&node.registry, OTHER_NODE, at);
    let mut asked = node.presence.take_lookups(10);
    node.other_node_publishes("bob", None, &[ROOM]);
    take_frames(&carols);
    let (user, lookup) = asked.first_mut().expect("bob is lost");
    assert!(!node.presence.send_change_to_watchers(&node.registry, user, lookup, &[ROOM]));
    assert_eq!(take_frames(&carols).len(), 0, "bob is online again");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_waits_for_other_nodes_receives_once_that_a_user_came_online_here() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    node.connect("bob", &[ROOM]);
    node.presence.session_became_live(
        &node.registry,
        node.registry.find_user(&name("bob")).expect("bob is connected"),
    );
    node.presence.query_timed_out(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(take_frames(&alices).len(), 1, "bob is online");
}

#[tokio::test(start_paused = true)]
async fn the_store_finds_the_shared_conversation_of_a_user_who_goes_offline_on_another_node() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    node.other_node_publishes("bob", None, &[]);
    assert_eq!(take_frames(&alices).len(), 1, "bob is online");
    let at = Timestamp::from_millis(5);
    node.other_node_publishes("bob", Some(at), &[]);
    assert_eq!(node.apply_store_answer(&[ROOM]), [name("bob")]);
    assert_eq!(take_frames(&alices), [presence_frame("bob", Some(at))]);
}

#[tokio::test(start_paused = true)]
async fn the_store_finds_the_shared_conversation_of_a_user_who_comes_online() {
    for here in [false, true] {
        let mut node = Node::new();
        let (alice, alices) = node.connect("alice", &[ROOM]);
        let (carol, carols) = node.connect("carol", &[ROOM, OTHER_ROOM]);
        for session in [alice, carol] {
            node.watch(session, "bob");
        }
        node.presence.query_timed_out(&node.registry, &name("bob"), Timestamp::from_millis(1));
        assert_eq!((take_frames(&alices).len(), take_frames(&carols).len()), (1, 1), "bob is offline");
        if here {
            node.connect("bob", &[OTHER_ROOM]);
            node.end_grace_period("bob");
        } else {
            node.other_node_publishes("bob", None, &[OTHER_ROOM]);
        }
        assert_eq!(take_frames(&carols), [presence_frame("bob", None)]);
        assert_eq!(take_frames(&alices), Vec::<Bytes>::new(), "no shared conversation is known");
        assert_eq!(node.apply_store_answer(&[ROOM, OTHER_ROOM]), [name("bob")]);
        assert_eq!(take_frames(&alices), [presence_frame("bob", None)]);
        assert_eq!(take_frames(&carols), Vec::<Bytes>::new(), "a duplicate");
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_finds_the_shared_conversation_of_a_user_who_leaves_this_node() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    let (bob, _) = node.connect("bob", &[]);
    node.end_grace_period("bob");
    node.watch(alice, "bob");
    assert_eq!(take_frames(&alices), [presence_frame("bob", None)]);
    let at = Timestamp::from_millis(5);
    let slot = node.registry.find_user(&name("bob")).expect("bob is connected");
    node.leave(bob);
    node.presence.start_grace_period(slot, at);
    let gone = node.registry.begin_unload(slot).expect("bob has no session");
    node.presence.remove_departed(slot);
    node.presence.publish_departure(&node.registry, &gone, at);
    assert_eq!(node.apply_store_answer(&[ROOM]), [name("bob")]);
    assert_eq!(take_frames(&alices), [presence_frame("bob", Some(at))]);
}

#[tokio::test(start_paused = true)]
async fn the_store_is_asked_again_when_a_watcher_has_left_a_conversation_during_a_query_of_other_nodes() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM, OTHER_ROOM]);
    node.watch(alice, "bob");
    node.registry.remove_member(
        node.registry.find_user(&name("alice")).expect("alice is connected"),
        OTHER_ROOM,
        Seq(2),
    );
    node.presence.query_timed_out(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(take_frames(&alices), Vec::<Bytes>::new(), "no shared conversation is known");
    assert_eq!(node.apply_store_answer(&[ROOM]), [name("bob")]);
    assert_eq!(take_frames(&alices).len(), 1, "bob is offline");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_shares_no_conversation_in_the_store_receives_nothing() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    node.presence.query_timed_out(&node.registry, &name("bob"), Timestamp::from_millis(1));
    take_frames(&alices);
    node.other_node_publishes("bob", None, &[]);
    assert_eq!(node.apply_store_answer(&[OTHER_ROOM]), [name("bob")]);
    assert_eq!(take_frames(&alices), Vec::<Bytes>::new());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_notice_that_arrives_late_changes_nothing() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    node.other_node_notice_arrives(3, "bob", None, &[ROOM]);
    assert_eq!(take_frames(&alices).len(), 1, "bob is online");
    node.other_node_notice_arrives(2, "bob", Some(Timestamp::from_millis(5)), &[ROOM]);
    assert_eq!(take_frames(&alices), Vec::<Bytes>::new(), "an earlier notice");
    node.other_node_notice_arrives(5, "bob", Some(Timestamp::from_millis(7)), &[ROOM]);
    assert_eq!(take_frames(&alices).len(), 1, "bob is offline");
    node.other_node_notice_arrives(4, "bob", None, &[ROOM]);
    assert_eq!(take_frames(&alices), Vec::<Bytes>::new(), "a duplicate of an answer");
    node.other_node_notice_arrives(0, "bob", None, &[ROOM]);
    assert_eq!(take_frames(&alices).len(), 1, "a node of an earlier version does not number its notices");
}

#[tokio::test(start_paused = true)]
async fn a_user_goes_offline_when_their_node_does_not_answer_again() {
    let mut node = Node::new();
    let (alice, alices) = node.connect("alice", &[ROOM]);
    node.watch(alice, "bob");
    node.other_node_notice_arrives(3, "bob", None, &[ROOM]);
    take_frames(&alices);
    let now = Timestamp::from_millis(9);
    for (answer, lost) in [(Some(4), 0), (None, 1)] {
        node.presence.mark_stale(Some(OTHER_NODE));
        if let Some(number) = answer {
            node.other_node_notice_arrives(number, "bob", None, &[ROOM]);
        }
        // A duplicate of an earlier notice does not count as an answer.
        node.other_node_notice_arrives(3, "bob", None, &[ROOM]);
        node.presence.query_timed_out(&node.registry, &name("bob"), now);
        assert_eq!(node.apply_store_answer(&[ROOM]).len(), lost);
    }
}

/// A bus that counts its operations.
#[derive(Debug, Default)]
struct CountingBus(std::sync::atomic::AtomicUsize);

impl CountingBus {
    fn count(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Bus for CountingBus {
    fn publish(&self, _: &Address, _: &Notice) {
        self.count();
    }

    fn subscribe(&self, _: Address) {
        self.count();
    }

    fn unsubscribe(&self, _: Address) {
        self.count();
    }

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_watch_list_changes_only_the_bus_subscriptions_that_differ() {
    let bus = Arc::new(CountingBus::default());
    let mut node = Node::new();
    node.presence = Presence::new(Duration::ZERO, Some(bus.clone()));
    let (alice, outbox) = node.connect("alice", &[ROOM]);
    let list = |users: std::ops::Range<u32>| -> Vec<_> {
        let named = users.map(|n| PresencePeer { user: name(&format!("user{n}")), last_seen: None });
        named.collect()
    };
    let operations = || bus.0.swap(0, std::sync::atomic::Ordering::Relaxed);
    node.presence.watch(&mut node.registry, alice, list(0..200));
    assert_eq!(operations(), 200);
    node.presence.watch(&mut node.registry, alice, list(0..200));
    assert_eq!(operations(), 0);
    node.presence.watch(&mut node.registry, alice, list(2..202));
    assert_eq!(operations(), 4, "two fewer, two more");
    for user in list(2..202) {
        node.presence.query_timed_out(&node.registry, &user.user, Timestamp::from_millis(1));
    }
    assert_eq!(take_frames(&outbox).len(), 200, "one for each user on the list, once known");
    node.leave(alice);
    assert_eq!(operations(), 200);
}
