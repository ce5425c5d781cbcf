//! Imports: events of another system keep their order, times and authors; nobody hears of them; what was imported before is a
//! duplicate; and a call stores all of its lines or none.

mod command_line;
mod hostile;
mod unheard;

use serde_json::{Value, json};
use switchboard_protocol::{EventBody, Role};
use switchboard_store::grant::Scope;

use crate::check::assert_check_finds_no_problem;
use crate::keys::key_with;
use crate::support::{Answer, Server, SharedEngines, text_of};

/// A `serve` server on SQLite, and one on PostgreSQL.
async fn servers() -> [Server; 2] {
    let shared = SharedEngines::new().await;
    [Server::start_with_auth().await, Server::start_with_auth_and(|config| shared.configure(config)).await]
}

fn admin(server: &Server) -> String {
    key_with(server, "mover", |key| key.with_scopes([Scope::Admin]))
}

fn body_of(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

async fn imports_body(server: &Server, key: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = server.asks("POST", "/v1/import").bearer_auth(key);
    server.request(request.header("content-type", "application/x-ndjson").body(body)).await
}

/// Imports lines. Returns how many were stored, and how many before.
async fn imports(server: &Server, key: &str, lines: &[Value]) -> (u64, u64) {
    let answer = imports_body(server, key, body_of(lines)).await.ok();
    let count = |field: &str| answer[field].as_u64().unwrap_or_else(|| panic!("{answer}"));
    (count("stored"), count("duplicates"))
}

/// Imports lines of which one is refused. Returns the code, the field and the line.
async fn is_refused(server: &Server, key: &str, lines: &[Value]) -> (String, String, u64) {
    refusal(&imports_body(server, key, body_of(lines)).await)
}

fn refusal(answer: &Answer) -> (String, String, u64) {
    let problem = answer.problem();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    (text("code"), text("field"), problem["line"].as_u64().unwrap_or_default())
}

fn message(to: &str, from: &str, at: &str, key: &str, text: &str) -> Value {
    json!({"to": to, "from": from, "at": at, "key": key, "text": text})
}

/// A visit with everything that a line can say.
fn visit() -> Vec<Value> {
    vec![
        json!({"create": "#visit-9", "at": "2019-03-01T09:00:00Z", "from": "shop", "title": "Visit 9", "members": ["bob"]}),
        message("#visit-9", "bob", "2019-03-01T09:00:01Z", "m1", "hello"),
        message("#visit-9", "shop", "2019-03-01T09:00:02Z", "m2", "hi bob"),
        json!({"to": "#visit-9", "from": "ana", "at": "2019-03-01T10:00:02+01:00", "key": "m3", "text": "me too",
            "data": {"a": 1}, "reply_to": {"from": "bob", "key": "m1"}}),
        json!({"react": "👍", "to": "#visit-9", "from": "bob", "at": "2019-03-01T09:00:05Z", "target": {"from": "ana", "key": "m3"}}),
        message("#visit-9", "shop", "2019-03-01T09:00:06Z", "m4", "thanks"),
        json!({"read": "#visit-9", "from": "ana", "upto": {"from": "shop", "key": "m2"}}),
        message("@bob", "shop", "2019-03-02T09:00:00Z", "d1", "in private"),
        message("@shop", "bob", "2019-03-02T09:00:01Z", "d2", "indeed"),
    ]
}

#[tokio::test]
async fn order_times_and_authors_are_those_of_the_file() {
    for server in servers().await {
        let key = admin(&server);
        assert_eq!(imports(&server, &key, &visit()).await, (9, 0));
        let mut bob = server.connects("bob").await;
        let log = bob.log("#visit-9").await;
        let seen: Vec<_> =
            log.iter().map(|event| (event.from.as_str(), event.at.to_string(), text_of(event))).collect();
        let expected = [
            ("shop", "2019-03-01T09:00:00.000Z", None),
            ("bob", "2019-03-01T09:00:01.000Z", Some("hello")),
            ("shop", "2019-03-01T09:00:02.000Z", Some("hi bob")),
            ("ana", "2019-03-01T09:00:02.000Z", None),
            ("ana", "2019-03-01T09:00:02.000Z", Some("me too")),
            ("bob", "2019-03-01T09:00:05.000Z", None),
            ("shop", "2019-03-01T09:00:06.000Z", Some("thanks")),
        ];
        assert_eq!(seen, expected.map(|(from, at, text)| (from, at.to_owned(), text)));
        assert!(matches!(&log[3].body, EventBody::Join { role: None, .. }), "{:?}", log[3]);
        let EventBody::Message { reply_to, .. } = &log[4].body else { panic!("{:?}", log[4]) };
        assert_eq!(reply_to.map(|seq| seq.0), Some(2));
        let mut roles: Vec<_> =
            bob.members("#visit-9").await.into_iter().map(|one| (one.user.to_string(), one.role)).collect();
        roles.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(
            roles,
            [("ana", Role::Member), ("bob", Role::Member), ("shop", Role::Admin)]
                .map(|(user, role)| (user.to_owned(), role))
        );
        let direct = bob.log("@bob:shop").await;
        assert_eq!(
            direct.iter().map(|event| text_of(event).expect("a text")).collect::<Vec<_>>(),
            ["in private", "indeed"]
        );
        let history = bob.history("#visit-9").await;
        assert_eq!(history.len(), 4);
        // The log goes on with messages of today.
        assert_eq!(bob.says("#visit-9", "back again").await, 8);
    }
}

#[tokio::test]
async fn a_file_that_is_imported_again_changes_nothing() {
    for server in servers().await {
        let key = admin(&server);
        assert_eq!(imports(&server, &key, &visit()).await, (9, 0));
        assert_eq!(imports(&server, &key, &visit()).await, (0, 9));
        let (mut bob, mut ana) = (server.connects("bob").await, server.connects("ana").await);
        // What users did since stays: a reaction taken back, a message deleted, messages read, and new ones.
        bob.does("react", json!({"conversation": "#visit-9", "target": 5, "emoji": "👍", "on": false})).await;
        bob.does("delete", json!({"conversation": "#visit-9", "target": 2})).await;
        ana.does("read", json!({"conversation": "#visit-9", "upto": 9})).await;
        bob.says("@shop", "new").await;
        assert_eq!(imports(&server, &key, &visit()).await, (0, 9));
        // Lines that are stored are duplicates also among new ones, and in one call.
        let again = [visit(), vec![message("@carl", "bob", "2020-01-01T00:00:00Z", "n1", "x")]].concat();
        assert_eq!(imports(&server, &key, &[again.clone(), again].concat()).await, (1, 19));
        assert_eq!(bob.log("#visit-9").await.len(), 9);
        assert_eq!(ana.summary("#visit-9").await.unread, 0);
    }
}

#[tokio::test]
async fn it_counts_as_read_unless_a_line_says_less() {
    for server in servers().await {
        let key = admin(&server);
        imports(&server, &key, &visit()).await;
        let unread = async |name: &str, conversation: &str| {
            server.connects(name).await.summary(conversation).await.unread
        };
        assert_eq!(unread("bob", "#visit-9").await, 0);
        assert_eq!(unread("shop", "#visit-9").await, 0);
        assert_eq!(unread("shop", "@bob:shop").await, 0);
        assert_eq!(unread("ana", "#visit-9").await, 1, "thanks, and not her own");
        // What comes later counts as read for the others, and not for her.
        let later = [message("#visit-9", "bob", "2019-03-01T09:00:07Z", "m5", "more")];
        assert_eq!(imports(&server, &key, &later).await, (1, 0));
        assert_eq!(unread("shop", "#visit-9").await, 0);
        assert_eq!(unread("ana", "#visit-9").await, 2);
        // A later line moves her cursor on, and an earlier one not back.
        let read = |key: &str, from: &str| json!({"read": "#visit-9", "from": "ana", "upto": {"from": from, "key": key}});
        assert_eq!(imports(&server, &key, &[read("m4", "shop"), read("m1", "bob")]).await, (1, 1));
        assert_eq!(unread("ana", "#visit-9").await, 1);
        // Who has not read what was said live is not moved over it.
        let mut bob = server.connects("bob").await;
        bob.says("#visit-9", "live").await;
        let now = bob.log("#visit-9").await.last().expect("an event").at.to_string();
        assert_eq!(
            imports(&server, &key, &[message("#visit-9", "carl", &now, "m6", "a bridge")]).await,
            (1, 0)
        );
        assert_eq!(unread("shop", "#visit-9").await, 2);
    }
}

#[tokio::test]
async fn what_was_imported_passes_the_check_of_the_database() {
    let mut server = Server::start_with_auth().await;
    let key = admin(&server);
    let mut lines = visit();
    lines.extend((0..150).map(|n| {
        message("#visit-9", ["bob", "shop", "dan"][n % 3], "2019-03-05T00:00:00Z", &format!("n{n}"), "x")
    }));
    lines.push(json!({"read": "#visit-9", "from": "bob", "upto": {"from": "bob", "key": "n3"}}));
    lines.push(json!({"read": "#visit-9", "from": "dan", "upto": {"from": "bob", "key": "m1"}}));
    assert_eq!(imports(&server, &key, &lines).await, (161, 0));
    let mut dan = server.connects("dan").await;
    assert_eq!(dan.summary("#visit-9").await.unread, 98, "it cannot be before he came");
    // Imported rooms are not of a user's choice, so they do not use up the limit on those.
    let mut shop = server.connects("shop").await;
    shop.makes_room("another", &[]).await;
    drop((dan, shop));
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert_check_finds_no_problem(server.data());
}

#[tokio::test]
async fn a_user_who_had_left_becomes_a_member_again() {
    for server in servers().await {
        let key = admin(&server);
        let mut ana = server.connects("ana").await;
        ana.makes_room("r", &["bob"]).await;
        let mut bob = server.connects("bob").await;
        bob.does("leave", json!({"conversation": "#r"})).await;
        let at = ana.log("#r").await.last().expect("an event").at.to_string();
        assert_eq!(imports(&server, &key, &[message("#r", "bob", &at, "k", "again")]).await, (1, 0));
        assert_eq!(ana.members("#r").await.len(), 2);
        assert_eq!(imports(&server, &key, &[message("#r", "bob", &at, "k", "again")]).await, (0, 1));
        bob.says("#r", "live").await;
    }
}
