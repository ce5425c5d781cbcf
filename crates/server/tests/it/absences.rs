//! Entries of the feed about users who are away: `user.offline`, `user.missed`, and `user.online` and `user.read` where the
//! configuration has them.

mod rows;

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;

use crate::keys::key_with;
use crate::support::{Cluster, Person, Process, Server, SharedEngines, eventually, in_time};

/// How long a user counts as online after the last connection has closed.
const GRACE: Duration = Duration::from_millis(300);

fn quickly(config: &mut Config) {
    config.presence_grace = GRACE;
    config.feed.missed_after = Duration::from_millis(500);
    if let Some(cluster) = &mut config.cluster {
        cluster.settings.lease = Duration::from_secs(1);
    }
}

/// Reads entries of the feed of these types, each once.
struct Reader {
    key: String,
    types: Vec<&'static str>,
    after: String,
}

impl Reader {
    fn new(server: &Server, types: &[&'static str]) -> Self {
        let key = key_with(server, "reader", |key| key.with_scopes([Scope::Feed]));
        Self { key, types: types.to_vec(), after: "0".to_owned() }
    }

    /// Another reader with the same key, from the beginning.
    fn of_types(&self, types: &[&'static str]) -> Self {
        Self { key: self.key.clone(), types: types.to_vec(), after: "0".to_owned() }
    }

    /// The next entries: one at least.
    async fn reads(&mut self, server: &Server) -> Vec<Value> {
        loop {
            let body = json!({"after": self.after, "types": self.types, "wait": 10_000});
            let page = in_time("a page", server.posts_as(&self.key, "feed", body)).await.ok();
            page["next"].as_str().expect("a cursor").clone_into(&mut self.after);
            let entries = page["entries"].as_array().expect("entries").clone();
            if !entries.is_empty() {
                return entries;
            }
        }
    }

    /// Reads until an entry about this user, and returns all that were read.
    async fn reads_until(&mut self, server: &Server, user: &str) -> Vec<Value> {
        let mut read = Vec::new();
        while !about(&read).contains(&user) {
            read.extend(self.reads(server).await);
        }
        read
    }
}

fn about(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["user"].as_str()).collect()
}

async fn leaves(mut person: Person) {
    person.client.close().await;
}

async fn missed_is_said_once_for_each_absence(server: &Server) {
    let mut reader = Reader::new(server, &["user.missed"]);
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "one").await;
    let read = reader.reads_until(server, "bob").await;
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!((&read[0]["conversations"], &read[0]["messages"]), (&json!(1), &json!(1)));
    assert_eq!(read[0]["latest"], json!({"conversation": "@alice:bob", "seq": 1}));
    assert_eq!(read[0].get("since"), None, "he was never connected");

    alice.says("@bob", "two").await;
    alice.says("@carol", "one").await;
    assert_eq!(about(&reader.reads_until(server, "carol").await), ["carol"], "bob's absence is the same");

    // He comes back without reading, and leaves: the next message is missed in another absence.
    leaves(server.connects("bob").await).await;
    let mut offline = reader.of_types(&["user.offline"]);
    offline.reads_until(server, "bob").await;
    alice.makes_room("team", &["bob"]).await;
    alice.says("@bob", "three").await;
    alice.says("#team", "hello").await;
    let mut read = reader.reads_until(server, "bob").await;
    while read.iter().filter_map(|entry| entry["conversations"].as_u64()).sum::<u64>() < 2 {
        read.extend(reader.reads(server).await);
    }
    let last = read.last().expect("an entry");
    assert_eq!(last["latest"], json!({"conversation": "#team", "seq": 2}));
    assert!(last["since"].is_string(), "{last}");
    let messages: u64 = read.iter().filter_map(|entry| entry["messages"].as_u64()).sum();
    assert_eq!(messages, 4, "three from alice and one in the room");
}

#[tokio::test]
async fn a_message_that_is_not_read_is_missed_once_for_each_absence() {
    missed_is_said_once_for_each_absence(&Server::start_with_auth_and(quickly).await).await;
}

#[tokio::test]
async fn a_message_that_is_not_read_is_missed_once_for_each_absence_on_postgresql() {
    let shared = SharedEngines::new().await;
    let server = Server::start_with_auth_and(|config| {
        shared.configure(config);
        quickly(config);
    });
    missed_is_said_once_for_each_absence(&server.await).await;
}

#[tokio::test]
async fn nothing_is_missed_that_was_read_or_deleted_or_is_for_a_user_who_is_there_or_gone_or_in_a_large_room()
{
    let server = Server::start_with_auth_and(|config| {
        quickly(config);
        config.limits.signal_room = 3;
    })
    .await;
    let mut reader = Reader::new(&server, &["user.missed"]);
    let mut alice = server.connects("alice").await;
    let _dora = server.connects("dora").await;
    let people = key_with(&server, "people", |key| key.with_scopes([Scope::People]));
    let gone = json!({"profiles": [{"user": "gone", "active": false}]});
    server.posts_as(&people, "profiles", gone).await.ok();
    let erased = alice.says("@bob", "never mind").await;
    alice.does("delete", json!({"conversation": "@bob", "target": erased})).await;
    alice.makes_room("large", &["m1", "m2", "m3"]).await;
    alice.makes_room("small", &["m4", "m5"]).await;
    alice.says("#large", "hello").await;
    alice.says("@dora", "she is there").await;
    alice.says("@gone", "he is not active").await;
    alice.says("@alice", "a note").await;
    alice.says("#small", "hello").await;
    let mut read = reader.reads_until(&server, "m4").await;
    if !about(&read).contains(&"m5") {
        read.extend(reader.reads_until(&server, "m5").await);
    }
    let mut users = about(&read);
    users.sort_unstable();
    assert_eq!(users, ["m4", "m5"]);
}

#[tokio::test]
async fn a_user_on_two_nodes_goes_offline_once_and_misses_nothing_until_then() {
    let cluster = Cluster::start_on(SharedEngines::new().await, 2, quickly).await;
    let (one, two) = (cluster.node(0), cluster.node(1));
    let mut reader = Reader::new(one, &["user.offline", "user.missed"]);
    let (laptop, phone) = (one.connects("bob").await, two.connects("bob").await);
    leaves(laptop).await;
    // Another user's entry shows that the node has stored who left it.
    leaves(one.connects("eve").await).await;
    assert_eq!(about(&reader.reads_until(one, "eve").await), ["eve"]);
    let mut alice = one.connects("alice").await;
    alice.says("@bob", "he is on the other node").await;
    alice.says("@carol", "she is nowhere").await;
    assert_eq!(about(&reader.reads_until(one, "carol").await), ["carol"]);
    leaves(phone).await;
    assert_eq!(about(&reader.reads_until(one, "bob").await), ["bob"]);

    // Both devices leave at the same time, on both nodes.
    for n in 0..5 {
        let (laptop, phone) = (one.connects("bob").await, two.connects("bob").await);
        tokio::join!(leaves(laptop), leaves(phone));
        let marker = format!("marker-{n}");
        let read = reader.reads_until(one, "bob").await;
        assert_eq!(about(&read), ["bob"], "{read:?}");
        leaves(two.connects(&marker).await).await;
        assert_eq!(about(&reader.reads_until(one, &marker).await), [marker.as_str()]);
    }
}

#[tokio::test]
async fn users_of_a_killed_node_go_offline_once_each_unless_they_are_on_another_node() {
    const USERS: usize = 200;
    let shared = SharedEngines::new().await;
    let cluster = Cluster::start_on(shared.clone(), 2, quickly).await;
    let mut reader = Reader::new(cluster.node(0), &["user.offline"]);
    let data = tempfile::TempDir::new().expect("a directory");
    let bus = shared.bus.as_ref().expect("a bus").expose().to_owned();
    let settings = [
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", bus.as_str()),
        ("SWITCHBOARD_CLUSTER_BUS_PREFIX", shared.prefix.as_str()),
        ("SWITCHBOARD_CLUSTER_LEASE", "1000"),
        ("SWITCHBOARD_PRESENCE_GRACE", "300"),
    ];
    let mut victim = Process::start_with(data.path(), &settings).await;
    let mut connected = Vec::new();
    for n in 0..USERS {
        connected.push(victim.connects(&format!("u{n}")).await);
    }
    eventually("the node has stored its users", async || {
        (rows::count_connected(&shared, "u%").await == USERS).then_some(())
    })
    .await;
    let killed = Clock::system().now().as_millis();
    victim.kill_now().await;
    let _back = cluster.node(1).connects("u0").await;
    let mut read = Vec::new();
    while read.len() < USERS - 1 {
        read.extend(reader.reads(cluster.node(0)).await);
    }
    leaves(cluster.node(0).connects("marker").await).await;
    read.extend(reader.reads_until(cluster.node(0), "marker").await);
    let mut users = about(&read);
    users.sort_unstable();
    let mut expected: Vec<_> = (1..USERS).map(|n| format!("u{n}")).chain(["marker".to_owned()]).collect();
    expected.sort_unstable();
    assert_eq!(users, expected);
    let seen = rows::latest_last_seen(&shared, "u%").await;
    assert!(seen <= killed, "seen {} ms after the end of the node", seen - killed);
}

#[tokio::test]
async fn users_who_do_not_come_back_after_a_restart_go_offline_once() {
    let mut server = Server::start_with_auth_and(quickly).await;
    let mut reader = Reader::new(&server, &["user.offline"]);
    let (_bob, _carol) = (server.connects("bob").await, server.connects("carol").await);
    server.restart().await;
    let carol = server.connects("carol").await;
    assert_eq!(about(&reader.reads_until(&server, "bob").await), ["bob"]);
    server.restart().await;
    leaves(server.connects("eve").await).await;
    let read = reader.reads_until(&server, "carol").await;
    assert!(!about(&read).contains(&"bob"), "{read:?}");
    drop(carol);
}

async fn online_and_reads_are_told(server: &Server) {
    let mut reader = Reader::new(server, &["user.online", "user.read"]);
    let mut alice = server.connects("alice").await;
    assert_eq!(reader.reads_until(server, "alice").await[0]["type"], "user.online");
    alice.says("@bob", "hello").await;
    let mut bob = server.connects("bob").await;
    assert_eq!(reader.reads_until(server, "bob").await[0]["type"], "user.online");
    bob.does("read", json!({"conversation": "@alice", "upto": 1})).await;
    bob.does("read", json!({"conversation": "@alice", "upto": 1})).await;
    let read = reader.reads_until(server, "bob").await;
    assert_eq!(read.len(), 1, "a cursor that does not move has no entry: {read:?}");
    assert_eq!(read[0]["type"], "user.read");
    assert_eq!((&read[0]["conversation"], &read[0]["seq"]), (&json!("@alice:bob"), &json!(1)));
}

fn telling(config: &mut Config) {
    (config.feed.online, config.feed.reads) = (true, true);
}

#[tokio::test]
async fn the_feed_has_who_comes_online_and_what_is_read_if_the_configuration_says_so() {
    online_and_reads_are_told(&Server::start_with_auth_and(telling).await).await;
}

#[tokio::test]
async fn the_feed_has_who_comes_online_and_what_is_read_on_postgresql() {
    let shared = SharedEngines::new().await;
    let server = Server::start_with_auth_and(|config| {
        shared.configure(config);
        telling(config);
    });
    online_and_reads_are_told(&server.await).await;
}
