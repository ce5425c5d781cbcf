//! A back end deletes a room: its members see the end wherever they are, its content goes, and its id is never given again.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use switchboard::auth::ApiKey;
use switchboard_protocol::reply::{Reply, ServerFrame};
use switchboard_protocol::{Event, EventBody};
use switchboard_store::check;
use switchboard_store::grant::Scope;
use switchboard_store::keys::{self, KeyStore, NewKey};
use tempfile::TempDir;

use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::keys::{for_shop_users, key_with};
use crate::support::{Answer, Cluster, Person, Process, Server, SharedEngines, eventually, in_time};

/// A key that may do everything.
fn admin(server: &Server) -> String {
    key_with(server, "backend", |key| key.with_scopes([Scope::Admin]))
}

/// Deletes a room. Returns the answer.
async fn deletes(server: &Server, key: &str, room: &str) -> Value {
    let done = eventually("the installation may delete rooms", || async {
        let answer = server.posts_as(key, "delete_room", json!({"conversation": room})).await;
        (answer.status != 409 || answer.code() != "not_ready").then_some(answer)
    });
    done.await.ok()
}

/// Waits for the end of a room, which may follow other events and signals.
async fn sees_the_end(person: &mut Person, room: &str) -> Event {
    loop {
        let ServerFrame::Event(event) = in_time("an event", person.next()).await else { continue };
        if event.conversation.as_str() == room && event.body == (EventBody::End {}) {
            return event;
        }
    }
}

/// The types of the feed's entries, and the texts of its messages, as one string.
async fn feed(server: &Server, key: &str, types: &[&str]) -> Value {
    server.posts_as(key, "feed", json!({"after": "0", "limit": 500, "types": types})).await.ok()["entries"]
        .take()
}

/// Waits until the feed has no message of a room any more: its content is removed.
async fn content_goes(server: &Server, key: &str, room: &str) {
    eventually("the content is removed", || async {
        let entries = feed(server, key, &["message", "create"]).await;
        (!entries.to_string().contains(&format!("{room:?}"))).then_some(())
    })
    .await;
}

/// A room with an event of each kind, of which alice is the admin, and bob, carol and dora are members, but eve has left.
async fn makes_a_full_room(alice: &mut Person, bob: &mut Person) {
    alice.makes_public_room("r", &["bob", "carol", "dora", "eve"]).await;
    alice.does("rename", json!({"conversation": "#r", "title": "Plans"})).await;
    alice.does("remove", json!({"conversation": "#r", "user": "eve"})).await;
    for n in 0..5 {
        bob.says_with_key("#r", &format!("k{n}"), &format!("secret {n}")).await;
    }
    bob.does("edit", json!({"conversation": "#r", "target": 4, "text": "secret edit"})).await;
    bob.does("delete", json!({"conversation": "#r", "target": 5})).await;
    for on in [true, false, true] {
        alice.does("react", json!({"conversation": "#r", "target": 6, "emoji": "👍", "on": on})).await;
    }
    bob.does("read", json!({"conversation": "#r", "upto": 6})).await;
}

/// Every command about the room is `not_found`, for a member and for a user who never was one.
async fn finds_nothing(person: &mut Person) {
    let room = json!("#r");
    for (name, fields) in [
        ("send", json!({"to": room, "text": "x"})),
        ("send", json!({"to": room, "text": "secret 0", "key": "k0"})),
        ("edit", json!({"conversation": room, "target": 4, "text": "x"})),
        ("delete", json!({"conversation": room, "target": 4})),
        ("react", json!({"conversation": room, "target": 4, "emoji": "x"})),
        ("join", json!({"conversation": room})),
        ("leave", json!({"conversation": room})),
        ("invite", json!({"conversation": room, "user": "zoe"})),
        ("remove", json!({"conversation": room, "user": "alice"})),
        ("role", json!({"conversation": room, "user": "bob", "role": "reader"})),
        ("rename", json!({"conversation": room, "title": "x"})),
        ("read", json!({"conversation": room, "upto": 1})),
        ("received", json!({"conversation": room, "upto": 1})),
        ("typing", json!({"conversation": room})),
        ("history", json!({"conversation": room})),
        ("members", json!({"conversation": room})),
        ("conversations", json!({"before": room})),
    ] {
        let code = person.is_refused(name, fields.clone()).await;
        assert_eq!(code.as_str(), "not_found", "{name} {fields}");
    }
}

async fn list(person: &mut Person) -> Vec<String> {
    person.conversations().await.iter().map(|one| one.conversation.to_string()).collect()
}

/// What back ends see of a deleted room: nothing.
async fn back_ends_find_nothing(server: &Server, key: &str) {
    let rooms = server.posts_as(key, "list_rooms", json!({})).await.ok();
    assert_eq!(rooms["rooms"], json!([]), "{rooms}");
    let unread = server.posts_as(key, "unread", json!({"users": ["carol"]})).await.ok();
    assert_eq!(unread["users"][0]["messages"], 0, "{unread}");
    for body in [
        json!({"as": "alice", "room": "r", "title": "Plans", "public": true}),
        json!({"as": "alice", "room": "r", "public": true, "members": ["bob", "carol", "dora", "eve"]}),
        json!({"as": "zoe", "room": "r"}),
    ] {
        let answer = server.posts_as(key, "create", body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (409, "already_exists"), "{body}");
    }
    let invited =
        server.posts_as(key, "invite", json!({"as": "alice", "conversation": "#r", "user": "bob"})).await;
    assert_eq!(invited.code(), "not_found");
}

#[tokio::test]
async fn members_see_the_end_and_nothing_of_the_room_is_left() {
    let mut server = Server::start_with_auth().await;
    let key = admin(&server);
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    let (mut carol, mut eve) = (server.connects("carol").await, server.connects("eve").await);
    makes_a_full_room(&mut alice, &mut bob).await;
    let end = deletes(&server, &key, "#r").await;
    let seq = end["seq"].as_u64().expect("a seq");
    for person in [&mut alice, &mut bob, &mut carol] {
        let event = sees_the_end(person, "#r").await;
        assert_eq!((event.seq.0, event.from.as_str()), (seq, "backend"));
        finds_nothing(person).await;
        assert!(list(person).await.is_empty());
        let log = person.log_after("#r", 0).await;
        assert_eq!(log, [event], "the end alone");
    }
    // Nothing comes after the event by which eve left.
    loop {
        if let ServerFrame::Event(event) = eve.next().await
            && matches!(event.body, EventBody::Remove { .. })
        {
            break;
        }
    }
    eve.receives_nothing().await;
    finds_nothing(&mut eve).await;
    assert_eq!(eve.is_refused("sync", json!({"conversation": "#r"})).await.as_str(), "not_found");
    content_goes(&server, &key, "#r").await;
    finds_nothing(&mut bob).await;
    back_ends_find_nothing(&server, &key).await;
    let again = server.posts_as(&key, "delete_room", json!({"conversation": "#r", "as": "zoe"})).await.ok();
    assert_eq!((&again["seq"], &again["at"], &again["duplicate"]), (&end["seq"], &end["at"], &json!(true)));
    let left = feed(&server, &key, &[]).await;
    assert!(!left.to_string().contains("secret") && !left.to_string().contains("Plans"), "{left}");
    let ends = feed(&server, &key, &["end"]).await;
    assert_eq!((ends.as_array().map(Vec::len), &ends[0]["via"]), (Some(1), &json!("backend")), "{ends}");
    assert_eq!(ends[0]["event"]["seq"], json!(seq));
    let audit = feed(&server, &key, &["audit.delete_room"]).await;
    assert_eq!(audit.as_array().map(Vec::len), Some(1), "{audit}");
    let entry = &audit[0];
    assert_eq!(
        (&entry["conversation"], &entry["seq"], &entry["user"]),
        (&json!("#r"), &json!(seq), &json!("backend"))
    );
    assert_eq!((&entry["via"], &entry["address"]), (&json!("backend"), &json!("127.0.0.1")));
    let sent = bob.says_with_key("@alice", "k0", "a key of the deleted room is free again").await;
    assert!(!sent.duplicate);
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
    if std::env::var_os("TEST_STORE").is_none() {
        let bytes = std::fs::read(server.data().join("switchboard.db")).expect("a database");
        for word in ["secret 0", "secret edit", "Plans"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }
}

#[tokio::test]
async fn a_client_that_was_away_learns_of_the_end_before_and_after_the_content_is_gone() {
    let mut server = Server::start_with_auth_and(|config| config.limits.replay = 5).await;
    let key = admin(&server);
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    makes_a_full_room(&mut alice, &mut bob).await;
    drop((alice, bob));
    let end = deletes(&server, &key, "#r").await["seq"].as_u64().expect("a seq");
    for round in 0..3 {
        for (name, cursor) in [("alice", 0), ("bob", 4), ("carol", end - 1), ("dora", 1)] {
            let mut person = server.resumes(name, &[("#r", cursor)]).await;
            assert!(person.welcome.conversations.is_empty(), "{name} in round {round}");
            let event = in_time("the end", person.receives_event()).await;
            assert_eq!((event.seq.0, &event.body), (end, &EventBody::End {}), "{name} in round {round}");
            person.receives_nothing().await;
        }
        let mut knows = server.resumes("bob", &[("#r", end)]).await;
        knows.receives_nothing().await;
        let mut ahead = server.resumes("bob", &[("#r", end + 1)]).await;
        assert!(
            matches!(ahead.receives_reply().await, Reply::Error(failure) if failure.code.as_str() == "bad_cursor")
        );
        for name in ["eve", "zoe"] {
            let mut other = server.resumes(name, &[("#r", 1)]).await;
            let Reply::Error(failure) = other.receives_reply().await else { panic!("an error") };
            assert_eq!(failure.code.as_str(), "not_found", "{name}");
        }
        match round {
            0 => content_goes(&server, &key, "#r").await,
            _ => server.restart().await,
        }
    }
}

#[tokio::test]
async fn calls_that_delete_no_room_are_refused() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &[]).await;
    alice.says("@bob", "hi").await;
    waits_for_the_version(&server, &key).await;
    for (body, status, code, field) in [
        (json!({"conversation": "#nope"}), 404, "not_found", Value::Null),
        (json!({"conversation": "@alice:bob"}), 400, "bad_field", json!("conversation")),
        (json!({"conversation": "@bob"}), 400, "bad_field", json!("conversation")),
        (json!({}), 400, "bad_field", json!("conversation")),
        (json!({"conversation": "#r", "why": 1}), 400, "bad_field", json!("why")),
        (json!({"conversation": "#r", "as": "@x"}), 400, "bad_field", json!("as")),
    ] {
        let answer = server.posts_as(&key, "delete_room", body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    let acting = key_with(&server, "acting", |key| key.with_scopes([Scope::Act, Scope::Moderate]));
    let some = key_with(&server, "some", |key| for_shop_users(key.with_scopes([Scope::Admin])));
    let token = server.token("alice", Duration::from_secs(60));
    for bearer in [&acting, &some, &token] {
        let answer = server.posts_as(bearer, "delete_room", json!({"conversation": "#r"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
    }
    assert_eq!(alice.log("#r").await.len(), 1);
}

/// Deletes another room, which succeeds once the installation has the version for it.
async fn deletes_another_room(server: &Server, key: &str) -> Option<()> {
    server.posts_as(key, "create", json!({"as": "alice", "room": "other"})).await;
    let answer = server.posts_as(key, "delete_room", json!({"conversation": "#other"})).await;
    (answer.status == 200).then_some(())
}

#[tokio::test]
async fn many_who_delete_a_room_at_once_end_it_once_while_others_write_to_it() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let mut alice = server.connects("alice").await;
    waits_for_the_version(&server, &key).await;
    alice.makes_room("r", &["bob"]).await;
    let sends = (0..50)
        .map(|n| server.posts_as(&key, "send", json!({"as": "bob", "to": "#r", "text": n.to_string()})));
    let deletions = (0..8).map(|_| server.posts_as(&key, "delete_room", json!({"conversation": "#r"})));
    let (sent, deleted) = tokio::join!(join_all(sends), join_all(deletions));
    let ends: Vec<_> = deleted.iter().map(|answer| answer.ok()["seq"].as_u64()).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    let is_first = |answer: &&Answer| answer.json().get("duplicate").is_none();
    assert_eq!(deleted.iter().filter(is_first).count(), 1);
    for answer in sent {
        assert!(answer.status == 200 || answer.code() == "not_found", "{answer:?}");
        assert!(answer.status != 200 || answer.json()["seq"].as_u64() < ends[0]);
    }
    let mut seen = 0;
    while seen < ends[0].expect("a seq") {
        let event = alice.receives_event().await;
        if event.conversation.as_str() == "#r" {
            assert!(event.seq.0 > seen);
            seen = event.seq.0;
        }
    }
}

async fn waits_for_the_version(server: &Server, key: &str) {
    eventually("the installation may delete rooms", || deletes_another_room(server, key)).await;
}

#[tokio::test]
async fn an_import_into_a_deleted_room_is_refused_and_each_import_is_in_the_audit_log() {
    let shared = SharedEngines::new().await;
    let servers = [
        Server::start_with_auth().await,
        Server::start_with_auth_and(|config| shared.configure(config)).await,
    ];
    for server in servers {
        let key = admin(&server);
        let imports = async |lines: &[Value]| {
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let request = server.asks("POST", "/v1/import").bearer_auth(&key);
            server.request(request.header("content-type", "application/x-ndjson").body(body)).await
        };
        let at = "2020-01-01T00:00:00Z";
        let create = json!({"create": "#old", "at": at, "from": "bob"});
        let message = |key: &str| json!({"to": "#old", "from": "bob", "at": at, "key": key, "text": "hi"});
        imports(&[create.clone(), message("m1")]).await.ok();
        imports(&[create.clone(), message("m1")]).await.ok();
        imports(&[message("m1"), message("m2")]).await.ok();
        assert_eq!(
            imports(&[json!({"to": "#nope", "from": "bob", "at": at, "key": "x", "text": "x"})]).await.status,
            404
        );
        let audit = eventually("two entries", || async {
            let audit = feed(&server, &key, &["audit.import"]).await;
            (audit.as_array().map(Vec::len) == Some(2)).then_some(audit)
        })
        .await;
        for (entry, (stored, duplicates)) in audit.as_array().expect("a list").iter().zip([(2, 0), (1, 1)]) {
            assert_eq!((&entry["stored"], &entry["duplicates"]), (&json!(stored), &json!(duplicates)));
            assert_eq!((&entry["via"], &entry["address"]), (&json!("backend"), &json!("127.0.0.1")));
            assert!(entry.get("imported").is_none() && entry.get("user").is_none(), "{entry}");
        }
        deletes(&server, &key, "#old").await;
        for when in ["at once", "later"] {
            for (line, code, field) in [
                (create.clone(), "already_exists", "create"),
                (message("m1"), "not_found", "to"),
                (message("m9"), "not_found", "to"),
                (
                    json!({"react": "x", "to": "#old", "from": "bob", "at": at, "target": {"from": "bob", "key": "m1"}}),
                    "not_found",
                    "to",
                ),
                (
                    json!({"read": "#old", "from": "bob", "upto": {"from": "bob", "key": "m1"}}),
                    "not_found",
                    "read",
                ),
            ] {
                let problem = imports(std::slice::from_ref(&line)).await.problem();
                assert_eq!(
                    (&problem["code"], &problem["field"]),
                    (&json!(code), &json!(field)),
                    "{line} {when}"
                );
            }
            content_goes(&server, &key, "#old").await;
        }
    }
}

#[tokio::test]
async fn the_end_reaches_the_members_on_every_node() {
    let cluster = Cluster::start(3).await;
    let key = admin(cluster.node(0));
    let mut people = Vec::new();
    for (node, name) in [(0, "alice"), (1, "bob"), (2, "carol"), (1, "alice"), (2, "dora")] {
        people.push(cluster.node(node).connects(name).await);
    }
    people[0].makes_room("r", &["bob", "carol", "dora"]).await;
    for n in 0..20 {
        people[0].says("#r", &n.to_string()).await;
    }
    let end = deletes(cluster.node(2), &key, "#r").await["seq"].as_u64().expect("a seq");
    for person in &mut people {
        assert_eq!(sees_the_end(person, "#r").await.seq.0, end);
    }
    content_goes(cluster.node(1), &key, "#r").await;
    for node in 0..3 {
        let mut bob = cluster.node(node).resumes("bob", &[("#r", 3)]).await;
        assert_eq!(sees_the_end(&mut bob, "#r").await.seq.0, end);
        assert_eq!(bob.is_refused("send", json!({"to": "#r", "text": "x"})).await.as_str(), "not_found");
        let answer = cluster.node(node).posts_as(&key, "create", json!({"as": "bob", "room": "r"})).await;
        assert_eq!(answer.code(), "already_exists");
    }
}

#[tokio::test]
async fn without_a_bus_members_on_other_nodes_see_the_end_with_the_next_sweep() {
    let cluster = Cluster::start_on(SharedEngines::without_bus().await, 2, |config| {
        if let Some(cluster) = &mut config.cluster {
            cluster.settings.sweep = Duration::from_millis(300);
        }
    })
    .await;
    let key = admin(cluster.node(0));
    let mut bob = cluster.node(1).connects("bob").await;
    bob.makes_room("r", &["alice"]).await;
    for n in 0..20 {
        cluster.node(0).posts("send", json!({"as": "alice", "to": "#r", "text": n.to_string()})).await.ok();
    }
    deletes(cluster.node(0), &key, "#r").await;
    content_goes(cluster.node(0), &key, "#r").await;
    sees_the_end(&mut bob, "#r").await;
    assert_eq!(bob.is_refused("send", json!({"to": "#r", "text": "x"})).await.as_str(), "not_found");
}

/// Imports a room with this many messages of 300 users into a server of its own process.
async fn imports_room(server: &OwnProcess<'_>, room: &str, messages: usize) {
    let at = "2020-01-01T00:00:00Z";
    let create = json!({"create": room, "at": at, "from": "bob"});
    let line = |n| json!({"to": room, "from": format!("u{}", n % 300), "at": at, "key": format!("{room}{n}"), "text": "x"});
    for part in (0..messages).collect::<Vec<_>>().chunks(900) {
        let lines = std::iter::once(create.clone()).chain(part.iter().map(|n| line(*n)));
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        let request = reqwest::Client::new().post(format!("http://{}/v1/import", server.process.address()));
        let request = request.header("content-type", "application/x-ndjson").bearer_auth(server.key);
        Answer::to(request.body(body)).await.ok();
    }
}

/// A server in a process of its own, with a key that may do everything.
struct OwnProcess<'a> {
    process: &'a Process,
    key: &'a str,
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_removes_a_room_goes_on_where_it_was() {
    const MESSAGES: usize = 4_000;
    const ATTEMPTS: usize = 20;
    let data = TempDir::new().expect("a directory");
    let mut process = Process::start(data.path()).await;
    let secret = ApiKey::generate().expect("random bytes");
    let key = NewKey::new("backend", ApiKey::hash(secret.expose())).with_scopes([Scope::Admin]);
    keys::create(&KeyStore::Directory(data.path().to_owned()), &key).expect("a key");
    let key = secret.expose();
    let checked = || {
        let report = check::check(data.path(), &mut |_| {}).expect("it can be checked");
        assert!(report.is_clean(), "{report:?}");
        report.events
    };
    let mut is_interrupted = false;
    for (before, attempt) in (checked()..).zip(0..ATTEMPTS) {
        let room = format!("#r{attempt}");
        imports_room(&OwnProcess { process: &process, key }, &room, MESSAGES).await;
        let body = json!({"conversation": room});
        process.posts(key, "delete_room", body.clone(), &[]).await.ok();
        // The first events go first.
        eventually("events are removed", || async {
            let created = json!({"after": "0", "types": ["create"]});
            let page = process.posts(key, "feed", created, &[]).await.ok();
            (!page.to_string().contains(&format!("{room:?}"))).then_some(())
        })
        .await;
        process.kill_now().await;
        is_interrupted = checked() > before + 1;
        process = Process::start(data.path()).await;
        let mut away = process.resumes("u7", &[(&*room, 12)]).await;
        sees_the_end(&mut away, &room).await;
        let again = process.posts(key, "delete_room", body, &[]).await.ok();
        assert_eq!(again["duplicate"], true);
        eventually("the rest is removed", || async { (checked() == before + 1).then_some(()) }).await;
        if is_interrupted {
            break;
        }
    }
    assert!(is_interrupted, "no kill came while there was content");
}
