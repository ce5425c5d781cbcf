//! Several nodes on one PostgreSQL and one NATS: users on different nodes communicate as on one server.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use switchboard::config::{Config, EngineUrl};
use switchboard_protocol::reply::{Reply, ServerFrame};
use switchboard_protocol::{CloseCode, Event, EventBody, Limits, Signal};
use tokio::time::Instant;

use crate::support::{Cluster, Person, SharedEngines, command, text_of, user};

/// The close code of a connection whose user was logged out.
const REVOKED_CLOSE_CODE: Option<u16> = Some(CloseCode::Revoked as u16);

/// Returns the next event that the user receives; skips signals.
pub(crate) async fn next_event(person: &mut Person) -> Event {
    loop {
        match person.next().await {
            ServerFrame::Event(event) => return event,
            ServerFrame::Signal(_) => {}
            other @ ServerFrame::Reply(_) => panic!("{} receives no event but {other:?}", person.name()),
        }
    }
}

/// Receives the next frame, which must be a presence signal.
async fn next_presence(person: &mut Person) -> (String, bool) {
    match person.receives_signal().await {
        Signal::Presence { user, online, .. } => (user.to_string(), online),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_node_delivers_each_message_once_and_in_the_same_order() {
    const MESSAGES_PER_USER: usize = 50;
    let cluster = Cluster::start(3).await;
    let names = ["alice", "bob", "carol"];
    let mut makes = cluster.node(0).connects("alice").await;
    makes.makes_room("busy", &["bob", "carol", "dora"]).await;
    let mut talkers = Vec::new();
    for (node, name) in names.into_iter().enumerate() {
        talkers.push(cluster.node(node).connects(name).await);
    }
    let mut listeners = Vec::new();
    for node in 0..3 {
        listeners.push(cluster.node(node).connects("dora").await);
    }
    let says = |talker: &mut Person, number| {
        let text = format!("{} {number}", talker.name());
        command("send", &json!({"to": "#busy", "text": text}))
    };
    for talker in &mut talkers {
        let commands: Vec<_> = (0..MESSAGES_PER_USER).map(|number| says(talker, number)).collect();
        talker.client.submit_all(commands).await.expect("sent");
    }
    let total = u64::try_from(MESSAGES_PER_USER * names.len()).expect("a few");
    let mut orders = BTreeSet::new();
    for listener in &mut listeners {
        let mut order = Vec::new();
        for seq in 2..total + 2 {
            let event = listener.receives_event().await;
            assert_eq!(event.seq.0, seq, "every node delivers every event in order");
            order.push(text_of(&event).expect("a message").to_owned());
        }
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len(), "no message twice");
        orders.insert(order);
    }
    assert_eq!(orders.len(), 1, "the same order on all nodes");
}

#[tokio::test]
async fn a_first_message_reaches_a_user_on_another_node() {
    let cluster = Cluster::start(2).await;
    let mut bob = cluster.node(1).connects("bob").await;
    let mut phone = cluster.node(0).connects("bob").await;
    let mut alice = cluster.node(0).connects("alice").await;
    alice.says("@bob", "hello").await;
    bob.receives_message("hello").await;
    phone.receives_message("hello").await;
    bob.says("@alice", "hello yourself").await;
    alice.receives_message("hello yourself").await;
    phone.receives_message("hello yourself").await;
}

#[tokio::test]
async fn a_membership_change_on_one_node_applies_to_sessions_on_another() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut bob = cluster.node(1).connects("bob").await;
    alice.makes_room("room", &["dora"]).await;
    alice.does("invite", json!({"conversation": "#room", "user": "bob"})).await;
    assert!(matches!(bob.receives_event().await.body, EventBody::Invite { .. }));
    alice.says("#room", "welcome").await;
    bob.receives_message("welcome").await;
    alice.does("remove", json!({"conversation": "#room", "user": "bob"})).await;
    assert!(matches!(bob.receives_event().await.body, EventBody::Remove { .. }));
    // Dora is still a member, so the node of bob and dora stays subscribed to the room.
    let mut dora = cluster.node(1).connects("dora").await;
    alice.says("#room", "among ourselves").await;
    dora.receives_message("among ourselves").await;
    bob.receives_nothing().await;
    alice.does("invite", json!({"conversation": "#room", "user": "bob"})).await;
    // First bob receives the messages that he missed before he was invited.
    bob.receives_message("among ourselves").await;
    assert!(matches!(bob.receives_event().await.body, EventBody::Invite { .. }));
}

#[tokio::test]
async fn signals_cross_nodes() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut bob = cluster.node(1).connects("bob").await;
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    bob.does("typing", json!({"conversation": "@alice"})).await;
    assert!(
        matches!(alice.receives_signal().await, Signal::Typing { user: typist, .. } if typist == user("bob"))
    );
    bob.says("@alice", "hello").await;
    alice.receives_message("hello").await;
    bob.does("read", json!({"conversation": "@alice", "upto": 1})).await;
    assert!(
        matches!(alice.receives_signal().await, Signal::Read { user: reader, .. } if reader == user("bob"))
    );
}

#[tokio::test]
async fn a_user_is_online_while_connected_to_any_node() {
    let cluster =
        Cluster::start_on(SharedEngines::new().await, 3, |config| config.presence_grace = Duration::ZERO)
            .await;
    let mut alice = cluster.node(0).connects("alice").await;
    alice.makes_room("alices", &["bob"]).await;
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert_eq!(next_presence(&mut alice).await, ("bob".to_owned(), false));
    let laptop = cluster.node(1).connects("bob").await;
    assert_eq!(next_presence(&mut alice).await, ("bob".to_owned(), true));
    let phone = cluster.node(2).connects("bob").await;
    let mut carol = cluster.node(2).connects("carol").await;
    carol.makes_room("carols", &["bob"]).await;
    carol.does("watch", json!({"users": ["bob"]})).await;
    assert_eq!(
        next_presence(&mut carol).await,
        ("bob".to_owned(), true),
        "the current state, not only a change"
    );
    drop(phone);
    drop(laptop);
    // There is one signal only, because bob was online as long as one node still had a device of his.
    assert_eq!(next_presence(&mut alice).await, ("bob".to_owned(), false));
    assert_eq!(next_presence(&mut carol).await, ("bob".to_owned(), false));
}

#[tokio::test]
async fn watch_lists_cause_no_more_bus_messages_than_their_rate() {
    const WATCH_LISTS: usize = 100;
    const USERS_PER_LIST: usize = 100;
    const USERS_PER_SECOND: u32 = 100;
    let cluster = Cluster::start_on(SharedEngines::new().await, 1, |config| {
        config.limits = Limits { watched_per_user: USERS_PER_SECOND, ..Limits::default().without_rates() };
    })
    .await;
    let node = cluster.node(0);
    let users: Vec<_> = (0..2 * USERS_PER_LIST).map(|number| format!("u{number}")).collect();
    let mut alice = node.connects("alice").await;
    alice.does("create", json!({"room": "large", "members": users})).await;
    let published = async || node.metric("switchboard_bus_messages_published_total").await;
    let (before, began) = (published().await, Instant::now());
    for list in 0..WATCH_LISTS {
        let named = users.iter().skip(list % 2 * USERS_PER_LIST).take(USERS_PER_LIST);
        alice.submits("watch", json!({"users": named.collect::<Vec<_>>()})).await;
    }
    let mut answered = 0;
    while answered < WATCH_LISTS {
        answered += usize::from(matches!(alice.next().await, ServerFrame::Reply(Reply::Ok(_))));
    }
    alice.does("watch", json!({"users": []})).await;
    let (published, time) = (published().await - before, began.elapsed());
    println!("{published} messages on the bus in {time:?} for {WATCH_LISTS} lists of {USERS_PER_LIST}");
    // The limit allows a burst of five lists and then one a second; the node also publishes heartbeats.
    let most = f64::from(USERS_PER_SECOND) * (5.0 + 1.0 + time.as_secs_f64());
    assert!(published < most, "{published} messages on the bus in {time:?}");
}

#[tokio::test]
async fn users_of_a_node_that_stops_are_offline_at_once() {
    let mut cluster = Cluster::start(2).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let bob = cluster.node(1).connects("bob").await;
    alice.makes_room("friends", &["bob"]).await;
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert_eq!(next_presence(&mut alice).await, ("bob".to_owned(), true));
    cluster.node_mut(1).begin_shutdown();
    assert_eq!(next_presence(&mut alice).await, ("bob".to_owned(), false));
    cluster.node_mut(1).wait_until_stopped().await;
    drop(bob);
}

/// Within this time a revocation on one node closes the user's connections on all nodes.
const MAX_REVOCATION_TIME: Duration = Duration::from_secs(5);

async fn assert_revoked_everywhere(shared: SharedEngines) {
    let cluster = Cluster::start_on(shared, 3, |_| {}).await;
    let mut devices = Vec::new();
    for node in 0..3 {
        devices.push(cluster.node(node).connects("alice").await);
    }
    let mut bob = cluster.node(1).connects("bob").await;
    let began = Instant::now();
    cluster.node(0).posts("revoke", json!({"user": "alice"})).await;
    for device in &mut devices {
        assert_eq!(device.is_closed().await, REVOKED_CLOSE_CODE);
    }
    assert!(began.elapsed() < MAX_REVOCATION_TIME, "{:?}", began.elapsed());
    bob.receives_nothing().await;
    // The user may connect again, because in `dev` mode there is no token that the server could refuse after the revocation.
    let mut again = cluster.node(2).connects("alice").await;
    again.receives_nothing().await;
}

#[tokio::test]
async fn a_revocation_reaches_every_node() {
    assert_revoked_everywhere(SharedEngines::new().await).await;
}

#[tokio::test]
async fn a_revocation_reaches_every_node_without_a_bus() {
    assert_revoked_everywhere(SharedEngines::without_bus().await).await;
}

#[tokio::test]
async fn without_a_bus_the_sweep_delivers_every_event() {
    let cluster = Cluster::start_on(SharedEngines::without_bus().await, 2, |config| {
        config.cluster.as_mut().expect("a cluster").settings.sweep = Duration::from_millis(300);
    })
    .await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut bob = cluster.node(1).connects("bob").await;
    alice.says("@bob", "one").await;
    bob.receives_message("one").await;
    alice.makes_room("room", &["bob"]).await;
    assert!(matches!(bob.receives_event().await.body, EventBody::Create { .. }));
    alice.says("#room", "two").await;
    alice.says("#room", "three").await;
    bob.receives_message("two").await;
    bob.receives_message("three").await;
    alice.does("remove", json!({"conversation": "#room", "user": "bob"})).await;
    alice.says("#room", "not for bob").await;
    alice.says("@bob", "four").await;
    // The events of the two conversations may arrive in any order; no message after the removal may arrive.
    let mut received = vec![next_event(&mut bob).await, next_event(&mut bob).await];
    received.sort_by_key(|event| text_of(event).is_some());
    assert!(matches!(received[0].body, EventBody::Remove { .. }), "{received:?}");
    assert_eq!(text_of(&received[1]), Some("four"));
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_key_that_is_sent_to_two_nodes_is_stored_once() {
    let cluster = Cluster::start(2).await;
    let mut laptop = cluster.node(0).connects("alice").await;
    let mut phone = cluster.node(1).connects("alice").await;
    for round in 0..20 {
        let fields = json!({"to": "@bob", "key": format!("key-{round}"), "text": "once"});
        let (one, other) =
            tokio::join!(laptop.stores("send", fields.clone()), phone.stores("send", fields.clone()),);
        assert_eq!(one.seq, other.seq);
        assert!(one.duplicate != other.duplicate, "one of the two answers is the first");
    }
    let mut bob = cluster.node(0).connects("bob").await;
    assert_eq!(bob.log("@alice").await.len(), 20);
}

#[tokio::test]
async fn a_client_resumes_on_another_node_after_its_node_stops() {
    let mut cluster = Cluster::start(2).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut bob = cluster.node(1).connects("bob").await;
    alice.says("@bob", "before").await;
    bob.receives_message("before").await;
    cluster.node_mut(1).begin_shutdown();
    cluster.node_mut(1).wait_until_stopped().await;
    alice.says("@bob", "meanwhile").await;
    let began = Instant::now();
    let mut bob = cluster.node(0).resumes("bob", &[("@alice:bob", 1)]).await;
    bob.receives_message("meanwhile").await;
    bob.says("@alice", "here again").await;
    alice.receives_message("here again").await;
    assert!(began.elapsed() < MAX_REVOCATION_TIME, "{:?}", began.elapsed());
}

/// How many messages a nats-server has received and delivered.
async fn count_nats_messages_in_and_out(nats: &engines::Nats) -> (u64, u64) {
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    let page = http.get(format!("http://{}/varz", nats.monitor_address())).send().await.expect("an answer");
    let page: serde_json::Value = serde_json::from_str(&page.text().await.expect("a page")).expect("JSON");
    let number = |name: &str| page[name].as_u64().expect("a number");
    (number("in_msgs"), number("out_msgs"))
}

#[tokio::test]
async fn an_event_in_a_large_room_is_one_notice_per_node() {
    const MEMBERS: usize = 10_000;
    const CONNECTED_MEMBERS: usize = 60;
    const MESSAGES: u64 = 100;
    // This test starts its own nats-server, so that only its messages are counted.
    let scratch = tempfile::TempDir::new().expect("a directory");
    let nats = engines::Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let shared =
        SharedEngines { bus: Some(EngineUrl::new(nats.url())), ..SharedEngines::without_bus().await };
    let cluster = Cluster::start_on(shared, 3, |config| {
        // No node sends a heartbeat during the test.
        config.cluster.as_mut().expect("a cluster").settings.lease = Duration::from_secs(3_600);
    })
    .await;
    let members: Vec<_> = (0..MEMBERS).map(|number| format!("u{number}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut alice = cluster.node(0).connects("alice").await;
    alice.makes_room("large", &[]).await;
    for some in members.chunks(500) {
        let invites =
            some.iter().map(|member| command("invite", &json!({"conversation": "#large", "user": member})));
        for _ in alice.client.submit_all(invites).await.expect("sent") {
            assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
        }
    }
    // The members connect to two of the three nodes only.
    let mut here = Vec::new();
    for (number, member) in members.iter().take(CONNECTED_MEMBERS).enumerate() {
        here.push(cluster.node(number % 2).connects(member).await);
    }
    alice.says("#large", "is everybody here?").await;
    for person in &mut here {
        person.receives_message("is everybody here?").await;
    }
    let before = count_nats_messages_in_and_out(&nats).await;
    for number in 0..MESSAGES {
        alice.says("#large", &number.to_string()).await;
    }
    for person in &mut here {
        for number in 0..MESSAGES {
            person.receives_message(&number.to_string()).await;
        }
    }
    let after = count_nats_messages_in_and_out(&nats).await;
    // The node that stored the event publishes one notice, and only the other node with connected members receives it.
    assert_eq!((after.0 - before.0, after.1 - before.1), (MESSAGES, MESSAGES));
}

/// Publishes a notice on the bus as a node does: to the conversation's subject, with the cluster's message authentication code.
async fn publish_forged_notice(shared: &SharedEngines, conversation: i64, json: &serde_json::Value) {
    use hmac::{KeyInit as _, Mac as _};
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let (_, database) = shared.store.expose().rsplit_once('/').expect("a database");
    let (database, _) = database.split_once('?').unwrap_or((database, ""));
    // `psql` prints a row of the table as `notices|\x` and hexadecimal digits.
    let rows = postgres.psql_in(database, "TABLE secrets").await.expect("a key");
    let key = rows.trim().strip_prefix(r"notices|\x").expect("a key");
    let digits = key.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).expect("digits"));
    let key: Vec<u8> = digits.map(|digits| u8::from_str_radix(digits, 16).expect("a byte")).collect();
    let signed = [&7_u64.to_be_bytes()[..], json.to_string().as_bytes()].concat();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).expect("a key");
    mac.update(b"c");
    mac.update(&conversation.to_be_bytes());
    mac.update(&signed);
    let payload = [&mac.finalize().into_bytes()[..16], &signed].concat();
    let url = shared.bus.as_ref().expect("a bus").expose();
    let nats = async_nats::connect(url).await.expect("a connection");
    let subject = format!("{}.2.c.{}.{conversation:016x}", shared.prefix, conversation % 1_024);
    nats.publish(subject, payload.into()).await.expect("published");
    nats.flush().await.expect("published");
}

#[tokio::test]
async fn a_forged_notice_adds_no_member() {
    let cluster = Cluster::start(1).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut mallory = cluster.node(0).connects("mallory").await;
    alice.makes_room("board", &[]).await;
    alice.says("#board", "1").await;
    // A forged notice: it claims that event 3 is a message in the conversation.
    let frame = json!({"type": "message", "conversation": "#board", "seq": 3, "from": "alice",
        "at": "2026-01-01T00:00:00.000Z", "text": "forged"});
    let effects = json!([{"user": "mallory", "passage": {"in": {"seen": 0}}}]);
    let notice =
        json!({"event": {"conversation": 1, "name": "#board", "seq": 3, "frame": frame, "effects": effects}});
    let signal = json!({"type": "typing", "conversation": "#board", "user": "alice"});
    let signal = json!({"signal": {"conversation": 1, "user": "alice", "frame": signal}});
    // Publishes both notices again until the node has received two, because it may subscribe after the first ones.
    while cluster.node(0).metric("switchboard_bus_messages_received_total").await < 2.0 {
        publish_forged_notice(&cluster.shared, 1, &notice).await;
        publish_forged_notice(&cluster.shared, 1, &signal).await;
    }
    assert!(matches!(alice.receives_signal().await, Signal::Typing { .. }));
    alice.says("#board", "among ourselves").await;
    mallory.receives_nothing().await;
    // All members receive the real event 3, not the forged one.
    let mut tablet = cluster.node(0).resumes("alice", &[("#board", 2)]).await;
    tablet.receives_message("among ourselves").await;
}

#[tokio::test]
async fn the_name_of_a_node_is_in_its_metrics() {
    let shared = SharedEngines::new().await;
    let named = |config: &mut Config| config.node_name = "chat-1".parse().ok();
    let cluster = Cluster::start_on(shared, 1, named).await;
    cluster.node(0).connects("alice").await.says("@bob", "hi").await;
    let metrics = cluster.node(0).gets("/metrics").await.text;
    assert!(metrics.contains(r#"switchboard_node_info{node="chat-1"} 1"#), "{metrics}");
    assert!(metrics.contains("\nswitchboard_clock_skew_seconds 0.0\n"), "{metrics}");
}
