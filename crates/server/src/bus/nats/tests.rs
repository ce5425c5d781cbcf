//! Nodes on a real NATS.

mod lost;
mod secure;
mod slots;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engines::{Nats, shared_nats};
use futures_util::StreamExt as _;
use serde_json::value::RawValue;
use switchboard_protocol::{Seq, UserId};

use tokio::time::{Instant, timeout};

use super::*;
use crate::record::ConversationKey;

/// Nothing here takes that long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

fn settings(url: &str, prefix: &str) -> NatsSettings {
    NatsSettings { url: EngineUrl::new(url), credentials: None, ca: None, prefix: prefix.to_owned() }
}

/// A prefix that no other test has.
fn own_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A node, as far as the bus knows it.
struct Node {
    bus: NatsBus,
    heard: mpsc::Receiver<Heard>,
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
        let (bus, heard) = connected.expect("usable settings");
        Self { bus, heard, metrics, tasks }
    }

    /// On the NATS that tests share.
    async fn on_shared(prefix: &str, id: u64) -> Self {
        let nats = shared_nats().await.expect("a nats-server");
        Self::connected(&settings(&nats.url(), prefix), id).await
    }

    async fn connected(settings: &NatsSettings, id: u64) -> Self {
        let node = Self::new(settings, id).await;
        until(|| node.bus.probe_is_possible()).await;
        node
    }

    async fn next(&mut self) -> Heard {
        let heard = timeout(PATIENCE, self.heard.recv()).await;
        heard.expect("something is heard").expect("the bus has not ended")
    }

    /// The next notice, whatever else comes before it.
    async fn notice(&mut self) -> (u64, Notice) {
        loop {
            if let Heard::Notice(NodeId(node), notice) = self.next().await {
                return (node, notice);
            }
        }
    }

    async fn event(&mut self) -> u64 {
        let (_, notice) = self.notice().await;
        let Notice::Event { seq: Seq(seq), .. } = notice else { panic!("an event, not {notice:?}") };
        seq
    }

    async fn gap(&mut self) {
        while !matches!(self.next().await, Heard::Gap) {}
    }

    async fn listens(&mut self, address: Address) {
        self.bus.listen(address.clone());
        loop {
            if let Heard::Listening(addresses) = self.next().await
                && addresses.contains(&address)
            {
                return;
            }
        }
    }

    fn tells(&self, key: i64, seq: u64) {
        self.bus.tell(&conversation(key), &event(key, seq));
    }

    /// Whether what this node sends itself comes back in time.
    async fn probes(&self, patience: Duration) -> bool {
        matches!(timeout(patience, self.bus.probe()).await, Ok(Ok(())))
    }

    fn subscriptions(&self) -> i64 {
        self.metrics.bus.subscriptions.get()
    }
}

impl NatsBus {
    fn probe_is_possible(&self) -> bool {
        self.is_connected() && self.witness.connection_state() == State::Connected
    }
}

fn conversation(key: i64) -> Address {
    Address::Conversation(ConversationKey(key))
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn event(key: i64, seq: u64) -> Notice {
    Notice::Event {
        conversation: ConversationKey(key),
        name: switchboard_protocol::ConversationId::parse("#secrets").expect("an id"),
        seq: Seq(seq),
        frame: RawValue::from_string(r#"{"type":"message","text":"hush"}"#.to_owned()).expect("JSON"),
        effects: Vec::new(),
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            // waits for: a state of which nobody tells
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes about");
}

/// What the server has counted: messages in, messages out.
async fn traffic(nats: &Nats) -> (u64, u64) {
    let page = reqwest::get(format!("http://{}/varz", nats.monitor())).await.expect("an answer");
    let page: serde_json::Value = page.json().await.expect("JSON");
    let count = |name: &str| page[name].as_u64().expect("a count");
    (count("in_msgs"), count("out_msgs"))
}

#[tokio::test]
async fn what_is_told_is_heard_by_those_who_listen_there() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(conversation(7)).await;
    bob.listens(Address::User(user("bob"))).await;
    bob.listens(Address::Watched(user("carol"))).await;
    bob.listens(Address::Nodes).await;

    let who = |name: &str| Notice::Who { user: user(name) };
    alice.tells(8, 1);
    alice.tells(7, 2);
    alice.bus.tell(&Address::User(user("carol")), &who("a"));
    alice.bus.tell(&Address::User(user("bob")), &who("b"));
    alice.bus.tell(&Address::Watched(user("bob")), &who("c"));
    alice.bus.tell(&Address::Watched(user("carol")), &who("d"));
    alice.bus.tell(&Address::Nodes, &Notice::Alive);

    let (node, notice) = bob.notice().await;
    let Notice::Event { conversation, name, seq, frame, .. } = notice else { panic!("{notice:?}") };
    assert_eq!((node, conversation, seq), (1, ConversationKey(7), Seq(2)));
    assert_eq!((name.as_str(), frame.get()), ("#secrets", r#"{"type":"message","text":"hush"}"#));
    let rest = [bob.notice().await, bob.notice().await, bob.notice().await];
    let [(1, Notice::Who { user: b }), (1, Notice::Who { user: d }), (1, Notice::Alive)] = rest else {
        panic!("two users and a node, not {rest:?}")
    };
    assert_eq!((b, d), (user("b"), user("d")));
}

#[tokio::test]
async fn nobody_hears_where_they_do_not_listen_any_more_nor_themselves() {
    let prefix = own_prefix();
    let (mut alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    for node in [&mut alice, &mut bob] {
        node.listens(conversation(1)).await;
        node.listens(conversation(2)).await;
    }
    bob.bus.ignore(conversation(1));
    until(|| bob.subscriptions() == 2).await;
    alice.tells(1, 1);
    alice.tells(2, 2);
    assert_eq!(bob.event().await, 2);
    bob.tells(2, 3);
    assert_eq!(alice.event().await, 3, "and not what was told here");
}

#[tokio::test]
async fn whoever_listens_again_is_told_again() {
    let mut node = Node::on_shared(&own_prefix(), 1).await;
    for _ in 0..2 {
        node.listens(conversation(1)).await;
    }
    assert_eq!(node.subscriptions(), 2, "one, and that for probes");
}

#[tokio::test]
async fn a_node_gets_one_message_however_many_users_it_has() {
    let scratch = tempfile::tempdir().expect("a directory");
    let nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let mut nodes = Vec::new();
    for id in 1..=4 {
        nodes.push(Node::connected(&settings, id).await);
    }
    let [teller, listeners @ ..] = nodes.as_mut_slice() else { panic!("four nodes") };
    let (deaf, listeners) = listeners.split_last_mut().expect("three");
    for node in listeners.iter_mut() {
        node.listens(conversation(5)).await;
    }
    deaf.listens(conversation(6)).await;

    let before = traffic(&nats).await;
    for seq in 1..=100 {
        teller.tells(5, seq);
    }
    for node in listeners {
        for seq in 1..=100 {
            assert_eq!(node.event().await, seq);
        }
    }
    let after = traffic(&nats).await;
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 200));
}

#[tokio::test]
async fn subjects_tell_nothing_of_what_users_write_or_are_called() {
    let prefix = own_prefix();
    let nats = shared_nats().await.expect("a nats-server");
    let spy = async_nats::connect(nats.url()).await.expect("a connection");
    let mut seen = spy.subscribe(format!("{prefix}.>")).await.expect("a subscription");
    spy.flush().await.expect("a connection");

    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(Address::Nodes).await;
    let person = user("hush");
    alice.tells(5, 1);
    alice.bus.tell(&Address::User(person.clone()), &Notice::Revoke { user: person.clone() });
    alice.bus.tell(&Address::Watched(person.clone()), &Notice::Who { user: person });
    alice.bus.tell(&Address::Nodes, &Notice::Gone);
    assert!(bob.probes(PATIENCE).await);

    let mut kinds = String::new();
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    while !['c', 'u', 'w', 'n', 'p', 'm'].iter().all(|&kind| kinds.contains(kind)) {
        let message = timeout(PATIENCE, seen.next()).await.expect("all kinds").expect("a message");
        let rest = message.subject.strip_prefix(&format!("{prefix}.2.")).expect("a version");
        let (kind, numbers) = rest.split_once('.').unwrap_or((rest, "0"));
        assert!(kind.len() == 1 && numbers.split('.').all(is_number), "{}", message.subject);
        kinds.push_str(kind);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_passed_over() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(Address::Nodes).await;
    // A MAC of zeros, then the node 3, then nothing or what no node of this version tells.
    let anonymous = [0; 24];
    let unknown = [&[0; 23][..], b"\x03{\"moon\":{\"phase\":1}}"].concat();
    for payload in [&b""[..], b"short", &anonymous, &unknown] {
        let told = alice.bus.client.publish(format!("{prefix}.2.n"), payload.to_vec().into()).await;
        told.expect("a connection");
    }
    alice.bus.tell(&Address::Nodes, &Notice::Alive);
    assert!(matches!(bob.notice().await, (1, Notice::Alive)));
    assert_eq!(bob.metrics.bus.dropped.get(), 2, "those that say who tells");
}

#[tokio::test]
async fn a_probe_comes_back_and_ends_with_the_bus() {
    let mut node = Node::on_shared(&own_prefix(), 1).await;
    node.listens(Address::Nodes).await;
    assert!(node.probes(PATIENCE).await);
    node.heard.close();
    assert!(node.tasks.finish(PATIENCE).await, "all tasks end by themselves");
    assert!(!node.probes(Duration::from_millis(50)).await, "nobody hears any more");
}

#[tokio::test]
async fn what_was_told_last_is_heard() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(conversation(1)).await;
    for seq in 1..=1_000 {
        alice.tells(1, seq);
    }
    let Node { bus, heard, tasks, .. } = alice;
    drop((bus, heard));
    assert!(tasks.finish(PATIENCE).await, "all tasks end by themselves");
    for seq in 1..=1_000 {
        assert_eq!(bob.event().await, seq);
    }
}
