//! Tests against a real nats-server.

mod authentication;
mod contract;
mod outages;
mod wildcards;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engines::{Nats, shared_nats};
use futures_util::StreamExt as _;
use serde_json::value::RawValue;
use switchboard_protocol::{Seq, UserId};

use tokio::time::{Instant, timeout};

use super::*;
use switchboard_store::record::ConversationKey;

/// How long a test waits for an event before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn settings(url: &str, prefix: &str) -> NatsSettings {
    NatsSettings {
        url: EngineUrl::new(url),
        credentials: None,
        ca: None,
        prefix: prefix.to_owned(),
        name: NodeName::of_host(),
    }
}

/// A subject prefix that no other test uses.
fn unique_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The bus of one node.
struct Node {
    bus: NatsBus,
    events: mpsc::Receiver<BusEvent>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Node {
    async fn new(settings: &NatsSettings, id: u64) -> Self {
        Self::with_key(settings, 7, id).await
    }

    async fn with_key(settings: &NatsSettings, key: u8, id: u64) -> Self {
        let key = NoticeKey::new([key; 32]);
        let (metrics, tasks) = (Arc::new(Metrics::new()), Tasks::new());
        let connected = connect(settings, &key, NodeId(id), metrics.clone(), &tasks).await;
        let (bus, events) = connected.expect("valid settings");
        Self { bus, events, metrics, tasks }
    }

    /// Connects a node to the nats-server that all tests share.
    async fn connect_to_shared(prefix: &str, id: u64) -> Self {
        let nats = shared_nats().await.expect("a nats-server");
        Self::connect(&settings(&nats.url(), prefix), id).await
    }

    async fn connect(settings: &NatsSettings, id: u64) -> Self {
        let node = Self::new(settings, id).await;
        wait_until(|| node.bus.has_both_connections()).await;
        node
    }

    async fn next_event(&mut self) -> BusEvent {
        let event = timeout(TEST_TIMEOUT, self.events.recv()).await;
        event.expect("a bus event arrives").expect("the bus has not ended")
    }

    /// Skips bus events up to the next notice, and returns that notice with its node.
    async fn next_notice(&mut self) -> (u64, Notice) {
        loop {
            if let BusEvent::Notice(NodeId(node), notice) = self.next_event().await {
                return (node, notice);
            }
        }
    }

    async fn next_seq(&mut self) -> u64 {
        let (_, notice) = self.next_notice().await;
        let Notice::Event { seq: Seq(seq), .. } = notice else { panic!("expected an event, got {notice:?}") };
        seq
    }

    async fn wait_for_gap(&mut self) {
        while !matches!(self.next_event().await, BusEvent::Gap) {}
    }

    /// Subscribes and waits for the confirmation.
    async fn subscribe(&mut self, address: Address) {
        self.bus.subscribe(address.clone());
        loop {
            if let BusEvent::Subscribed(addresses) = self.next_event().await
                && addresses.contains(&address)
            {
                return;
            }
        }
    }

    fn publish(&self, key: i64, seq: u64) {
        self.bus.publish(&conversation(key), &event_notice(key, seq));
    }

    /// Returns whether a health probe arrives before `limit`.
    async fn probe_succeeds(&self, limit: Duration) -> bool {
        matches!(timeout(limit, self.bus.probe()).await, Ok(Ok(())))
    }

    fn subscription_count(&self) -> i64 {
        self.metrics.bus.subscriptions.get()
    }
}

impl NatsBus {
    fn has_both_connections(&self) -> bool {
        self.is_connected() && self.probe_client.connection_state() == State::Connected
    }
}

fn conversation(key: i64) -> Address {
    Address::Conversation(ConversationKey(key))
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn event_notice(key: i64, seq: u64) -> Notice {
    Notice::Event {
        conversation: ConversationKey(key),
        name: switchboard_protocol::ConversationId::parse("#secrets").expect("an id"),
        seq: Seq(seq),
        frame: RawValue::from_string(r#"{"type":"message","text":"hush"}"#.to_owned()).expect("JSON"),
        effects: Vec::new(),
        ends: false,
    }
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            // waits for: a state that has no event
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TEST_TIMEOUT, wait).await.expect("the condition comes true");
}

/// How many messages the nats-server has received and sent.
async fn sent_messages_and_bytes(nats: &Nats) -> (u64, u64) {
    let page = reqwest::get(format!("http://{}/varz", nats.monitor_address())).await.expect("an answer");
    let page: serde_json::Value = page.json().await.expect("JSON");
    let count = |name: &str| page[name].as_u64().expect("a count");
    (count("in_msgs"), count("out_msgs"))
}

#[tokio::test]
async fn a_repeated_subscription_is_confirmed_again() {
    let mut node = Node::connect_to_shared(&unique_prefix(), 1).await;
    for _ in 0..2 {
        node.subscribe(conversation(1)).await;
    }
    assert_eq!(node.subscription_count(), 2, "one, and the one for probes");
}

#[tokio::test]
async fn nats_sends_one_message_to_each_subscribed_node() {
    let scratch = tempfile::tempdir().expect("a directory");
    let nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let mut nodes = Vec::new();
    for id in 1..=4 {
        nodes.push(Node::connect(&settings, id).await);
    }
    let [publisher, others @ ..] = nodes.as_mut_slice() else { panic!("four nodes") };
    let (unrelated, subscribers) = others.split_last_mut().expect("three");
    for node in subscribers.iter_mut() {
        node.subscribe(conversation(5)).await;
    }
    unrelated.subscribe(conversation(6)).await;

    let before = sent_messages_and_bytes(&nats).await;
    for seq in 1..=100 {
        publisher.publish(5, seq);
    }
    for node in subscribers {
        for seq in 1..=100 {
            assert_eq!(node.next_seq().await, seq);
        }
    }
    let after = sent_messages_and_bytes(&nats).await;
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 200));
}

#[tokio::test]
async fn subjects_contain_neither_user_names_nor_text() {
    let prefix = unique_prefix();
    let nats = shared_nats().await.expect("a nats-server");
    let spy = async_nats::connect(nats.url()).await.expect("a connection");
    let mut seen = spy.subscribe(format!("{prefix}.>")).await.expect("a subscription");
    spy.flush().await.expect("a connection");

    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    bob.subscribe(Address::Nodes).await;
    let person = user("hush");
    alice.publish(5, 1);
    alice.bus.publish(&Address::User(person.clone()), &Notice::Revoke { user: person.clone() });
    alice.bus.publish(&Address::Watched(person.clone()), &Notice::PresenceQuery { user: person });
    alice.bus.publish(&Address::Nodes, &Notice::Stopped);
    assert!(bob.probe_succeeds(TEST_TIMEOUT).await);

    let mut kinds = String::new();
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    while !['c', 'u', 'w', 'n', 'p', 'm'].iter().all(|&kind| kinds.contains(kind)) {
        let message = timeout(TEST_TIMEOUT, seen.next()).await.expect("all kinds").expect("a message");
        let rest = message.subject.strip_prefix(&format!("{prefix}.2.")).expect("a version");
        let (kind, numbers) = rest.split_once('.').unwrap_or((rest, "0"));
        assert!(kind.len() == 1 && numbers.split('.').all(is_number), "{}", message.subject);
        kinds.push_str(kind);
    }
}

#[tokio::test]
async fn a_notice_that_cannot_be_decoded_is_dropped() {
    let prefix = unique_prefix();
    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    bob.subscribe(Address::Nodes).await;
    // A MAC of zeros, then node 3, then nothing or an unknown kind of notice.
    let anonymous = [0; 24];
    let unknown = [&[0; 23][..], b"\x03{\"moon\":{\"phase\":1}}"].concat();
    for payload in [&b""[..], b"short", &anonymous, &unknown] {
        let sent = alice.bus.client.publish(format!("{prefix}.2.n"), payload.to_vec().into()).await;
        sent.expect("a connection");
    }
    alice.bus.publish(&Address::Nodes, &Notice::Heartbeat);
    assert!(matches!(bob.next_notice().await, (1, Notice::Heartbeat)));
    assert_eq!(bob.metrics.bus.dropped.get(), 2, "the two that name a sender");
}

#[tokio::test]
async fn a_probe_succeeds_until_the_bus_ends() {
    let mut node = Node::connect_to_shared(&unique_prefix(), 1).await;
    node.subscribe(Address::Nodes).await;
    assert!(node.probe_succeeds(TEST_TIMEOUT).await);
    node.events.close();
    assert!(node.tasks.finish(TEST_TIMEOUT).await, "all tasks end by themselves");
    assert!(!node.probe_succeeds(Duration::from_millis(50)).await, "the receiving task has ended");
}

#[tokio::test]
async fn a_stopping_bus_delivers_its_queued_notices() {
    let prefix = unique_prefix();
    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    bob.subscribe(conversation(1)).await;
    for seq in 1..=1_000 {
        alice.publish(1, seq);
    }
    let Node { bus, events, tasks, .. } = alice;
    drop((bus, events));
    assert!(tasks.finish(TEST_TIMEOUT).await, "all tasks end by themselves");
    for seq in 1..=1_000 {
        assert_eq!(bob.next_seq().await, seq);
    }
}
