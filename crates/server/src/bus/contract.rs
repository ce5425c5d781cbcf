//! Tests of the contract of [`Bus`]. Each test is called a law. The bus over NATS and the simulated bus both pass them.
//!
//! A bus may lose, duplicate or delay notices while something is broken. The laws say how it delivers while nothing is broken, and
//! what it reports after something was.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Address, Bus, BusEvent, NodeId, Notice};
use crate::node_name::NodeName;
use switchboard_store::record::{ConversationKey, Effect, JoinOrLeave};

/// How long a test of the contract waits for an event before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of notices that are published before a receiver is read. Every bus can queue this many.
const NOTICES_PER_BURST: u64 = 32;

/// A network of buses that a test can start, disconnect and restore.
pub(crate) trait Network: Sized {
    /// Starts a network without nodes.
    async fn start() -> Self;

    /// Adds a node of an installation, which has the same key as its other nodes. Returns once it can publish.
    async fn join(&mut self, installation: u8) -> Node;

    /// Cuts the connections of all nodes. Returns once no node can publish.
    async fn cut(&mut self);

    /// Restores the connections of all nodes. Returns once every node can publish.
    async fn restore(&mut self);
}

/// The bus of one node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) events: mpsc::Receiver<BusEvent>,
    /// A value, such as the tasks of the bus, that must not be dropped before the node.
    pub(crate) resources: Box<dyn Any>,
}

/// Generates the tests of the contract for one implementation of the bus.
macro_rules! contract_tests {
    ($network:ty: $($law:ident)*) => { $(
        #[tokio::test]
        async fn $law() {
            $crate::bus::contract::$law::<$network>().await;
        }
    )* };
    ($network:ty) => {
        $crate::bus::contract::contract_tests! { $network:
            a_notice_arrives_once_at_every_other_subscriber_of_its_address
            every_kind_of_notice_arrives_unchanged
            a_node_does_not_receive_its_own_notices
            notices_of_one_node_arrive_in_their_order
            a_notice_published_after_the_confirmation_arrives
            each_request_for_a_subscription_is_confirmed
            nothing_arrives_from_an_address_after_unsubscribing
            an_outage_is_reported_to_every_node
            a_subscription_made_in_an_outage_is_confirmed_after_it
            a_full_queue_is_reported
            a_full_queue_loses_no_confirmation
            a_notice_with_another_key_does_not_arrive
            a_probe_arrives_while_the_network_works
            the_last_notices_of_a_node_arrive
        }
    };
}
pub(crate) use contract_tests;

impl Node {
    async fn next_event(&mut self) -> BusEvent {
        let event = timeout(TEST_TIMEOUT, self.events.recv()).await;
        event.expect("a bus event arrives").expect("the bus has not ended")
    }

    /// Returns the next bus event, which must be a notice.
    async fn next_notice(&mut self) -> (NodeId, Notice) {
        match self.next_event().await {
            BusEvent::Notice(from, notice) => (from, notice),
            other => panic!("expected a notice, got {other:?}"),
        }
    }

    /// Returns the event number in the next bus event, which must be a notice of an event.
    async fn next_seq(&mut self) -> u64 {
        match self.next_notice().await.1 {
            Notice::Event { seq, .. } => seq.0,
            other => panic!("expected an event, got {other:?}"),
        }
    }

    async fn subscribe(&mut self, address: &Address) {
        self.bus.subscribe(address.clone());
        self.wait_for_confirmation(address).await;
    }

    /// Skips bus events up to the confirmation of a subscription.
    async fn wait_for_confirmation(&mut self, address: &Address) {
        loop {
            if let BusEvent::Subscribed(addresses) = self.next_event().await
                && addresses.contains(address)
            {
                return;
            }
        }
    }

    /// Skips bus events up to a gap.
    async fn wait_for_gap(&mut self) {
        while !matches!(self.next_event().await, BusEvent::Gap) {}
    }

    fn publish(&self, key: i64, seq: u64) {
        self.bus.publish(&conversation_address(key), &event_notice(key, seq));
    }

    /// Returns whether a probe arrives before `limit`.
    async fn probe_succeeds(&self, limit: Duration) -> bool {
        matches!(timeout(limit, self.bus.probe()).await, Ok(Ok(())))
    }
}

fn conversation_address(key: i64) -> Address {
    Address::Conversation(ConversationKey(key))
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn event_notice(key: i64, seq: u64) -> Notice {
    Notice::Event {
        conversation: ConversationKey(key),
        name: ConversationId::parse("#room").expect("an id"),
        seq: Seq(seq),
        frame: sample_frame(),
        effects: vec![Effect { user: user("eve"), join_or_leave: JoinOrLeave::Join { seen: Seq(3) } }],
        ends: false,
    }
}

fn sample_frame() -> Box<RawValue> {
    RawValue::from_string(r#"{"type":"message","text":"hü\u0000 "}"#.to_owned()).expect("JSON")
}

async fn join_nodes<N: Network, const COUNT: usize>(network: &mut N) -> [Node; COUNT] {
    let mut nodes = Vec::new();
    for _ in 0..COUNT {
        nodes.push(network.join(1).await);
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("so many were added"))
}

/// Publishes more notices than fit into the queue of the node `full`, which does not read. No notice is in flight in the end,
/// because `reader` has received all of them.
async fn overflow_queue(publisher: &Node, full: &Node, reader: &mut Node) {
    let many = u64::try_from(full.events.max_capacity()).expect("a number") + NOTICES_PER_BURST;
    for burst in 0..=many / NOTICES_PER_BURST {
        let seqs = burst * NOTICES_PER_BURST..(burst + 1) * NOTICES_PER_BURST;
        seqs.clone().for_each(|seq| publisher.publish(1, seq));
        for seq in seqs {
            assert_eq!(reader.next_seq().await, seq);
        }
    }
    assert!(full.probe_succeeds(TEST_TIMEOUT).await, "the bus receives although the router does not read");
}

pub(crate) async fn a_notice_arrives_once_at_every_other_subscriber_of_its_address<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob, mut carol, mut dave] = join_nodes(&mut network).await;
    let addresses = |name: &str| {
        [conversation_address(1), Address::User(user(name)), Address::Watched(user(name)), Address::Nodes]
    };
    for node in [&mut bob, &mut carol] {
        for address in addresses("bob") {
            node.subscribe(&address).await;
        }
    }
    dave.subscribe(&conversation_address(2)).await;
    for (seq, address) in (1..).zip(addresses("bob")) {
        alice.bus.publish(&address, &event_notice(1, seq));
    }
    // None of these addresses has a subscriber.
    for address in &addresses("dave")[1..3] {
        alice.bus.publish(address, &event_notice(1, 9));
    }
    alice.publish(3, 9);
    alice.publish(2, 5);
    let received: [(&mut Node, &[u64]); 3] =
        [(&mut bob, &[1, 2, 3, 4]), (&mut carol, &[1, 2, 3, 4]), (&mut dave, &[5])];
    for (node, expected) in received {
        let mut seqs = Vec::new();
        for _ in expected {
            seqs.push(node.next_seq().await);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, expected);
        assert!(node.probe_succeeds(TEST_TIMEOUT).await);
        let more = node.events.try_recv();
        assert!(more.is_err(), "{more:?}");
    }
}

pub(crate) async fn every_kind_of_notice_arrives_unchanged<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    bob.subscribe(&Address::Nodes).await;
    let conversations = vec![ConversationKey(i64::MAX), ConversationKey(-1)];
    let last_seen = Some(Timestamp::from_millis(7));
    for notice in [
        event_notice(i64::MAX, u64::from(u32::MAX)),
        Notice::Signal {
            conversation: ConversationKey(1),
            own: true,
            user: user("eve"),
            frame: sample_frame(),
            hidden_from: vec![user("mallory")],
        },
        Notice::Private { user: user("eve"), frame: sample_frame() },
        Notice::Revoke { user: user("eve") },
        Notice::Presence {
            user: user("eve"),
            last_seen,
            conversations,
            number: 3,
            hidden_from: vec![user("mallory")],
        },
        Notice::Blocks { user: user("eve") },
        Notice::Renamed {
            conversations: vec![(ConversationKey(7), ConversationId::direct(&user("eve"), &user("zoe")))],
            user: Some((user("eve"), user("eva"))),
        },
        Notice::PresenceQuery { user: user("eve") },
        Notice::Heartbeat,
        Notice::Resync,
        Notice::Stopped,
        Notice::Status {
            name: NodeName::of_host(),
            version: "1.2.3".to_owned(),
            time: Timestamp::from_millis(7),
        },
        Notice::Question { number: u64::MAX, question: sample_frame() },
        Notice::Answer { number: u64::MAX, answer: sample_frame() },
    ] {
        alice.bus.publish(&Address::Nodes, &notice);
        assert_eq!(format!("{:?}", bob.next_notice().await), format!("{:?}", (alice.id, notice)));
    }
}

pub(crate) async fn a_node_does_not_receive_its_own_notices<N: Network>() {
    let mut network = N::start().await;
    let [mut alice, mut bob] = join_nodes(&mut network).await;
    alice.subscribe(&conversation_address(1)).await;
    bob.subscribe(&conversation_address(1)).await;
    alice.publish(1, 1);
    assert_eq!(bob.next_seq().await, 1);
    bob.publish(1, 2);
    assert_eq!(alice.next_seq().await, 2);
}

pub(crate) async fn notices_of_one_node_arrive_in_their_order<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    let addresses =
        [conversation_address(1), conversation_address(2), Address::User(user("bob")), Address::Nodes];
    for address in &addresses {
        bob.subscribe(address).await;
    }
    for burst in 0..8 {
        let seqs = burst * NOTICES_PER_BURST..(burst + 1) * NOTICES_PER_BURST;
        for (seq, address) in seqs.clone().zip(addresses.iter().cycle()) {
            alice.bus.publish(address, &event_notice(1, seq));
        }
        let mut arrived = vec![Vec::new(); addresses.len()];
        for _ in seqs {
            let seq = bob.next_seq().await;
            let of = usize::try_from(seq).expect("a number") % addresses.len();
            arrived[of].push(seq);
        }
        assert!(arrived.iter().all(|seqs| seqs.is_sorted()), "{arrived:?}");
    }
}

pub(crate) async fn a_notice_published_after_the_confirmation_arrives<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    for key in 1..=100 {
        bob.subscribe(&conversation_address(key)).await;
        alice.publish(key, 1);
        assert_eq!(bob.next_seq().await, 1);
    }
}

pub(crate) async fn each_request_for_a_subscription_is_confirmed<N: Network>() {
    let mut network = N::start().await;
    let [mut alice] = join_nodes(&mut network).await;
    alice.subscribe(&conversation_address(1)).await;
    alice.subscribe(&conversation_address(1)).await;
    alice.bus.unsubscribe(conversation_address(1));
    alice.subscribe(&conversation_address(1)).await;
}

pub(crate) async fn nothing_arrives_from_an_address_after_unsubscribing<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    bob.subscribe(&conversation_address(1)).await;
    bob.subscribe(&conversation_address(2)).await;
    bob.bus.unsubscribe(conversation_address(1));
    alice.publish(1, 1);
    alice.publish(2, 2);
    assert_eq!(bob.next_seq().await, 2);
}

pub(crate) async fn an_outage_is_reported_to_every_node<N: Network>() {
    let mut network = N::start().await;
    let [mut alice, mut bob] = join_nodes(&mut network).await;
    alice.subscribe(&conversation_address(1)).await;
    bob.subscribe(&conversation_address(1)).await;
    network.cut().await;
    alice.publish(1, 1);
    bob.publish(1, 2);
    network.restore().await;
    // The gap is the first event: no notice comes before it.
    for node in [&mut alice, &mut bob] {
        let first = node.next_event().await;
        assert!(matches!(first, BusEvent::Gap), "{first:?}");
    }
    alice.publish(1, 3);
    bob.publish(1, 4);
    assert_eq!((bob.next_seq().await, alice.next_seq().await), (3, 4), "the subscriptions are there again");
}

pub(crate) async fn a_subscription_made_in_an_outage_is_confirmed_after_it<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    bob.subscribe(&conversation_address(1)).await;
    network.cut().await;
    bob.bus.subscribe(conversation_address(2));
    bob.bus.unsubscribe(conversation_address(1));
    let early = timeout(Duration::from_millis(300), bob.events.recv()).await;
    assert!(early.is_err(), "nothing can confirm it: {early:?}");
    network.restore().await;
    bob.wait_for_confirmation(&conversation_address(2)).await;
    alice.publish(1, 1);
    alice.publish(2, 2);
    loop {
        match bob.next_event().await {
            BusEvent::Notice(_, Notice::Event { seq: Seq(2), .. }) => return,
            BusEvent::Notice(_, notice) => panic!("{notice:?}"),
            BusEvent::Subscribed(_) | BusEvent::Gap => {}
        }
    }
}

pub(crate) async fn a_full_queue_is_reported<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob, mut carol] = join_nodes(&mut network).await;
    bob.subscribe(&conversation_address(1)).await;
    carol.subscribe(&conversation_address(1)).await;
    overflow_queue(&alice, &bob, &mut carol).await;
    bob.wait_for_gap().await;
    while bob.events.try_recv().is_ok() {}
    alice.publish(1, 1);
    assert_eq!(bob.next_seq().await, 1, "it receives again");
}

pub(crate) async fn a_full_queue_loses_no_confirmation<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob, mut carol] = join_nodes(&mut network).await;
    bob.subscribe(&conversation_address(1)).await;
    carol.subscribe(&conversation_address(1)).await;
    overflow_queue(&alice, &bob, &mut carol).await;
    bob.bus.subscribe(conversation_address(2));
    // The confirmation is on its way while the queue is full.
    carol.subscribe(&conversation_address(2)).await;
    bob.wait_for_confirmation(&conversation_address(2)).await;
}

pub(crate) async fn a_notice_with_another_key_does_not_arrive<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    let mut mallory = network.join(2).await;
    mallory.subscribe(&conversation_address(1)).await;
    bob.subscribe(&conversation_address(1)).await;
    mallory.publish(1, 1);
    alice.publish(1, 2);
    // The probe arrives after every notice that was published before it on the same network.
    assert!(mallory.probe_succeeds(TEST_TIMEOUT).await);
    mallory.publish(1, 3);
    alice.publish(1, 4);
    assert_eq!((bob.next_seq().await, bob.next_seq().await), (2, 4));
    let early = timeout(Duration::from_millis(100), mallory.events.recv()).await;
    assert!(early.is_err(), "nor does mallory read those of the others: {early:?}");
}

pub(crate) async fn a_probe_arrives_while_the_network_works<N: Network>() {
    let mut network = N::start().await;
    let [alice] = join_nodes(&mut network).await;
    assert!(alice.probe_succeeds(TEST_TIMEOUT).await);
    network.cut().await;
    assert!(!alice.probe_succeeds(Duration::from_millis(300)).await);
    network.restore().await;
    assert!(alice.probe_succeeds(TEST_TIMEOUT).await);
}

pub(crate) async fn the_last_notices_of_a_node_arrive<N: Network>() {
    let mut network = N::start().await;
    let [alice, mut bob] = join_nodes(&mut network).await;
    bob.subscribe(&Address::Nodes).await;
    alice.bus.publish(&Address::Nodes, &Notice::Heartbeat);
    alice.bus.publish(&Address::Nodes, &Notice::Stopped);
    let Node { bus, events, resources: kept, .. } = alice;
    drop((bus, events));
    assert!(matches!(bob.next_notice().await.1, Notice::Heartbeat));
    assert!(matches!(bob.next_notice().await.1, Notice::Stopped));
    drop(kept);
}
