//! Which sessions get whose presence when other nodes answer late or not at all.

use std::sync::Arc;

use bytes::Bytes;
use switchboard_protocol::{Limits, Seq};

use super::*;
use crate::bus::{NoBus, NodeId};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use switchboard_store::record::{Answer, ConversationKey};

const NODE: NodeId = NodeId(7);
const ROOM: ConversationKey = ConversationKey(1);
const OTHER: ConversationKey = ConversationKey(2);

fn name(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

/// One node of a cluster, as presence sees it.
struct Node {
    registry: Registry,
    presence: Presence,
    /// Of the last notice of the other node.
    number: u64,
}

impl Node {
    fn new() -> Self {
        let presence = Presence::new(Duration::ZERO, Some(Arc::new(NoBus)));
        Self { registry: Registry::default(), presence, number: 0 }
    }

    /// A session of a user who is in these conversations.
    fn connects(&mut self, user: &str, conversations: &[ConversationKey]) -> (SessionSlot, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(&Limits::default(), Arc::new(Metrics::new())));
        let user = self.registry.user_or_new(&name(user));
        let session = self.registry.add_session(user, outbox.clone());
        for conversation in conversations {
            self.registry.join(user, *conversation, Seq(1));
        }
        (session, outbox)
    }

    fn watches(&mut self, session: SessionSlot, user: &str) {
        let users = vec![Acquaintance { user: name(user), last_seen: None }];
        self.presence.watch(&mut self.registry, session, users);
    }

    fn leaves(&mut self, session: SessionSlot) {
        let gone = self.registry.remove_session(session).expect("it was here");
        self.presence.unwatch(session, &gone.watching);
    }

    /// The user becomes online on this node.
    fn arrives(&mut self, user: &str) {
        let slot = self.registry.find(&name(user)).expect("the user is connected");
        self.presence.arrived(&self.registry, slot);
    }

    /// The store says that each user whom it is asked about is in these conversations. Returns the users.
    fn store_answers(&mut self, conversations: &[ConversationKey]) -> Vec<UserId> {
        let asked = self.presence.take_lookups(10);
        let answer = |(user, mut lookup)| {
            self.presence.deliver(&self.registry, &user, &mut lookup, conversations);
            user
        };
        asked.into_iter().map(answer).collect()
    }

    fn another_node_says(&mut self, user: &str, last_seen: Option<Timestamp>, shared: &[ConversationKey]) {
        self.number += 1;
        self.another_node_said(self.number, user, last_seen, shared);
    }

    /// The notice of this number arrives.
    fn another_node_said(
        &mut self,
        number: u64,
        user: &str,
        last_seen: Option<Timestamp>,
        shared: &[ConversationKey],
    ) {
        let registry = &self.registry;
        self.presence.changed_elsewhere(registry, NODE, &name(user), last_seen, shared, number);
    }
}

/// What has been queued.
fn told(outbox: &Outbox) -> Vec<Bytes> {
    let mut queued = std::collections::VecDeque::new();
    outbox.take(0, &mut queued);
    queued.into_iter().map(|queued| queued.frame).collect()
}

/// The signal that a user is online, or offline since `last_seen`.
fn presence(user: &str, last_seen: Option<Timestamp>) -> Bytes {
    encode(&Signal::Presence { user: name(user), online: last_seen.is_none(), last_seen })
}

/// A node that is asked about bob for alice and carol, where mallory has taken the place of alice's session since; with carol's
/// queue and mallory's.
fn with_a_place_taken_over() -> (Node, Arc<Outbox>, Arc<Outbox>) {
    let mut node = Node::new();
    let (alice, _) = node.connects("alice", &[ROOM]);
    let (carol, carols) = node.connects("carol", &[ROOM]);
    node.watches(alice, "bob");
    node.watches(carol, "bob");
    node.leaves(alice);
    let (_, mallorys) = node.connects("mallory", &[]);
    (node, carols, mallorys)
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_goes_to_nobody_who_has_the_place_of_the_session_that_asked() {
    let (mut node, carols, mallorys) = with_a_place_taken_over();
    node.another_node_says("bob", None, &[ROOM]);
    assert_eq!(told(&mallorys), Vec::<Bytes>::new(), "the answer to another");
    assert_eq!(told(&carols).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_answers_is_not_told_to_whoever_has_the_place_of_the_session_that_asked() {
    let (mut node, carols, mallorys) = with_a_place_taken_over();
    node.presence.give_up_asking(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(told(&mallorys), Vec::<Bytes>::new(), "the answer to another");
    assert_eq!(told(&carols).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_has_left_is_told_nothing_by_a_late_answer() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    let user = node.registry.find(&name("alice")).expect("she is here");
    node.registry.part(user, ROOM, Seq(2));
    node.another_node_says("bob", None, &[ROOM]);
    assert_eq!(told(&alices), Vec::<Bytes>::new());
}

#[tokio::test(start_paused = true)]
async fn that_a_user_is_lost_is_told_to_watchers_who_share_a_conversation_still() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    let (carol, carols) = node.connects("carol", &[ROOM]);
    let at = Timestamp::from_millis(5);
    for session in [alice, carol] {
        node.watches(session, "bob");
    }
    node.another_node_says("bob", None, &[ROOM]);
    assert_eq!((told(&alices).len(), told(&carols).len()), (1, 1), "he is online");
    let user = node.registry.find(&name("alice")).expect("she is here");
    node.registry.part(user, ROOM, Seq(2));
    node.presence.lost(&node.registry, NODE, at);
    assert_eq!(told(&carols).len(), 0, "the store is asked first where he is");
    assert_eq!(node.store_answers(&[ROOM]), [name("bob")]);
    assert_eq!((told(&alices).len(), told(&carols).len()), (0, 1));
    node.another_node_says("bob", None, &[ROOM]);
    node.presence.lost(&node.registry, NODE, at);
    let mut asked = node.presence.take_lookups(10);
    node.another_node_says("bob", None, &[ROOM]);
    told(&carols);
    let (user, lookup) = asked.first_mut().expect("bob is lost");
    assert!(!node.presence.deliver(&node.registry, user, lookup, &[ROOM]));
    assert_eq!(told(&carols).len(), 0, "he is back");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_waits_for_other_nodes_gets_once_that_a_user_came_here() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    node.connects("bob", &[ROOM]);
    node.presence.arrived(&node.registry, node.registry.find(&name("bob")).expect("he is here"));
    node.presence.give_up_asking(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(told(&alices).len(), 1, "he is online");
}

#[tokio::test(start_paused = true)]
async fn a_user_who_goes_before_their_node_knows_a_conversation_is_looked_up_in_the_store() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    node.another_node_says("bob", None, &[]);
    assert_eq!(told(&alices).len(), 1, "he is online");
    let at = Timestamp::from_millis(5);
    node.another_node_says("bob", Some(at), &[]);
    assert_eq!(node.store_answers(&[ROOM]), [name("bob")]);
    assert_eq!(told(&alices), [presence("bob", Some(at))]);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_comes_online_before_their_node_knows_a_conversation_is_looked_up_in_the_store() {
    for here in [false, true] {
        let mut node = Node::new();
        let (alice, alices) = node.connects("alice", &[ROOM]);
        let (carol, carols) = node.connects("carol", &[ROOM, OTHER]);
        for session in [alice, carol] {
            node.watches(session, "bob");
        }
        node.presence.give_up_asking(&node.registry, &name("bob"), Timestamp::from_millis(1));
        assert_eq!((told(&alices).len(), told(&carols).len()), (1, 1), "he is offline");
        if here {
            node.connects("bob", &[OTHER]);
            node.arrives("bob");
        } else {
            node.another_node_says("bob", None, &[OTHER]);
        }
        assert_eq!(told(&carols), [presence("bob", None)]);
        assert_eq!(told(&alices), Vec::<Bytes>::new(), "it is not known that she shares one");
        assert_eq!(node.store_answers(&[ROOM, OTHER]), [name("bob")]);
        assert_eq!(told(&alices), [presence("bob", None)]);
        assert_eq!(told(&carols), Vec::<Bytes>::new(), "a second copy");
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_who_leaves_this_node_before_it_knows_a_conversation_is_looked_up_in_the_store() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    let (bob, _) = node.connects("bob", &[]);
    node.arrives("bob");
    node.watches(alice, "bob");
    assert_eq!(told(&alices), [presence("bob", None)]);
    let at = Timestamp::from_millis(5);
    let slot = node.registry.find(&name("bob")).expect("bob is connected");
    node.leaves(bob);
    node.presence.leaving(slot, at);
    let gone = node.registry.begin_unload(slot).expect("bob has no session");
    node.presence.departed(slot);
    node.presence.tell_gone(&node.registry, &gone, at);
    assert_eq!(node.store_answers(&[ROOM]), [name("bob")]);
    assert_eq!(told(&alices), [presence("bob", Some(at))]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_left_a_conversation_while_other_nodes_were_asked_is_looked_up_in_the_store() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM, OTHER]);
    node.watches(alice, "bob");
    node.registry.part(node.registry.find(&name("alice")).expect("alice is connected"), OTHER, Seq(2));
    node.presence.give_up_asking(&node.registry, &name("bob"), Timestamp::from_millis(1));
    assert_eq!(told(&alices), Vec::<Bytes>::new(), "it is not known that she shares one");
    assert_eq!(node.store_answers(&[ROOM]), [name("bob")]);
    assert_eq!(told(&alices).len(), 1, "he is offline");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_shares_nothing_by_the_store_gets_nothing() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    node.presence.give_up_asking(&node.registry, &name("bob"), Timestamp::from_millis(1));
    told(&alices);
    node.another_node_says("bob", None, &[]);
    assert_eq!(node.store_answers(&[OTHER]), [name("bob")]);
    assert_eq!(told(&alices), Vec::<Bytes>::new());
}

#[tokio::test(start_paused = true)]
async fn what_a_node_said_before_does_not_count_when_it_comes_after_what_it_said_last() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    node.another_node_said(3, "bob", None, &[ROOM]);
    assert_eq!(told(&alices).len(), 1, "he is online");
    node.another_node_said(2, "bob", Some(Timestamp::from_millis(5)), &[ROOM]);
    assert_eq!(told(&alices), Vec::<Bytes>::new(), "he had gone before he came back");
    node.another_node_said(5, "bob", Some(Timestamp::from_millis(7)), &[ROOM]);
    assert_eq!(told(&alices).len(), 1, "he is offline");
    node.another_node_said(4, "bob", None, &[ROOM]);
    assert_eq!(told(&alices), Vec::<Bytes>::new(), "a second copy of an answer");
    node.another_node_said(0, "bob", None, &[ROOM]);
    assert_eq!(told(&alices).len(), 1, "a node of an earlier version has no numbers");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_say_again_that_it_has_a_user_does_not_have_them() {
    let mut node = Node::new();
    let (alice, alices) = node.connects("alice", &[ROOM]);
    node.watches(alice, "bob");
    node.another_node_said(3, "bob", None, &[ROOM]);
    told(&alices);
    let now = Timestamp::from_millis(9);
    for (answer, lost) in [(Some(4), 0), (None, 1)] {
        node.presence.doubt(Some(NODE));
        if let Some(number) = answer {
            node.another_node_said(number, "bob", None, &[ROOM]);
        }
        // A second copy is no answer.
        node.another_node_said(3, "bob", None, &[ROOM]);
        node.presence.give_up_asking(&node.registry, &name("bob"), now);
        assert_eq!(node.store_answers(&[ROOM]).len(), lost);
    }
}

/// Counts what is asked of the bus.
#[derive(Debug, Default)]
struct Counting(std::sync::atomic::AtomicUsize);

impl Counting {
    fn count(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Bus for Counting {
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
async fn a_list_costs_the_bus_what_differs_from_the_list_before() {
    let bus = Arc::new(Counting::default());
    let mut node = Node::new();
    node.presence = Presence::new(Duration::ZERO, Some(bus.clone()));
    let (alice, outbox) = node.connects("alice", &[ROOM]);
    let list = |users: std::ops::Range<u32>| -> Vec<_> {
        let named = users.map(|n| Acquaintance { user: name(&format!("user{n}")), last_seen: None });
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
        node.presence.give_up_asking(&node.registry, &user.user, Timestamp::from_millis(1));
    }
    assert_eq!(told(&outbox).len(), 200, "one for each of the list, once it is known");
    node.leaves(alice);
    assert_eq!(operations(), 200);
}
