//! `switchboard check`: it finds no problem in what the server stored, and reports every kind of damage.

mod corrupt;

pub(crate) use self::corrupt::damage_first_conversation;

use std::path::Path;

use serde_json::{Value, json};
use switchboard::check_database;
use switchboard_protocol::Timestamp;
use switchboard_store::clock::Clock;

use crate::support::{Person, Server, user};

pub(crate) fn assert_check_finds_no_problem(path: &Path) {
    let problems: Vec<_> =
        check_database(path).expect("it can be checked").iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Stops a server, and checks what it has stored: `check` reads SQLite's files only.
pub(crate) async fn assert_check_finds_no_problem_after_a_stop(server: &mut Server) {
    server.begin_shutdown();
    server.wait_until_stopped().await;
    if std::env::var_os("TEST_STORE").is_none() {
        assert_check_finds_no_problem(server.data());
    }
}

/// Starts a server and stores events of every kind.
async fn server_with_every_event() -> Server {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("r", &["bob", "carol"]).await;
    for (text, seq) in [("first", 2), ("second", 3), ("third", 4)] {
        assert_eq!(alice.says("#r", text).await, seq);
    }
    bob.does("send", json!({"to": "#r", "text": "an answer", "reply_to": 2})).await;
    alice.does("edit", json!({"conversation": "#r", "target": 2, "text": "better"})).await;
    alice.does("edit", json!({"conversation": "#r", "target": 3, "text": "to be deleted"})).await;
    for (emoji, on) in [("👍", true), ("🎉", true), ("👍", false), ("👍", true)] {
        bob.does("react", json!({"conversation": "#r", "target": 2, "emoji": emoji, "on": on})).await;
    }
    bob.does("react", json!({"conversation": "#r", "target": 3, "emoji": "👎", "on": true})).await;
    alice.does("delete", json!({"conversation": "#r", "target": 3})).await;
    bob.does("read", json!({"conversation": "#r", "upto": 5})).await;
    alice.does("received", json!({"conversation": "#r", "upto": 9})).await;
    bob.does("leave", json!({"conversation": "#r"})).await;
    alice.says("#r", "without bob").await;
    bob.does("join", json!({"conversation": "#r"})).await;
    alice.does("invite", json!({"conversation": "#r", "user": "dora", "role": "reader"})).await;
    alice.does("role", json!({"conversation": "#r", "user": "bob", "role": "admin"})).await;
    alice.does("remove", json!({"conversation": "#r", "user": "carol"})).await;
    alice.does("rename", json!({"conversation": "#r", "title": "Another"})).await;
    alice.says("@bob", "hi").await;
    bob.says("@alice", "hello").await;
    alice.says("@alice", "a note").await;
    server
}

/// Builds the server of [`server_with_every_event`] and stops it.
async fn stopped_server_with_every_event() -> Server {
    let mut server = Box::pin(server_with_every_event()).await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    server
}

#[tokio::test]
async fn check_finds_no_problem_in_the_database_of_a_running_or_stopped_server() {
    let mut server = server_with_every_event().await;
    assert_check_finds_no_problem(server.data());
    assert_check_finds_no_problem(&server.data().join("switchboard.db"));
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert_check_finds_no_problem(server.data());
}

/// A pseudo-random generator: the same seed gives the same numbers, so that a failure can be repeated.
pub(crate) struct SeededRandom(pub(crate) u64);

impl SeededRandom {
    pub(crate) fn random_below(&mut self, end: u64) -> u64 {
        // The constants of Knuth's MMIX generator. Its high bits are used, because its low bits are less random.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    pub(crate) fn random_one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let end = all.len() as u64;
        all[usize::try_from(self.random_below(end)).expect("few")]
    }
}

const USERS: [&str; 4] = ["alice", "bob", "carol", "dora"];

/// A random command. The server may refuse it.
fn random_command(random: &mut SeededRandom, number: u64) -> (&'static str, Value) {
    let place = random.random_one_of(&["#a", "#b", "@alice", "@bob", "@carol"]);
    let room = random.random_one_of(&["#a", "#b"]);
    let target = 1 + random.random_below(40);
    let user = random.random_one_of(&USERS);
    // Some of these ends pass during the test.
    let until = Clock::system().now().as_millis() + 20 + i64::from(number.is_multiple_of(7)) * 60_000;
    let until = Timestamp::from_millis(until);
    match random.random_below(20) {
        0..=4 => ("send", json!({"to": place, "text": "hi", "key": (number / 2).to_string()})),
        5 => ("send", json!({"to": place, "data": {"n": number}, "reply_to": target})),
        6 => ("edit", json!({"conversation": place, "target": target, "text": "hello"})),
        7 => ("delete", json!({"conversation": place, "target": target})),
        8 | 9 => {
            let (emoji, on) = (random.random_one_of(&["👍", "🎉"]), random.random_below(2) == 0);
            ("react", json!({"conversation": place, "target": target, "emoji": emoji, "on": on}))
        }
        10 => (random.random_one_of(&["read", "received"]), json!({"conversation": place, "upto": target})),
        11 => ("join", json!({"conversation": room})),
        12 => ("leave", json!({"conversation": room})),
        13 => {
            let role = random.random_one_of(&["admin", "member", "reader"]);
            (
                random.random_one_of(&["invite", "role"]),
                json!({"conversation": room, "user": user, "role": role}),
            )
        }
        14 => ("remove", json!({"conversation": room, "user": user})),
        15 => ("remove", json!({"conversation": room, "user": user, "ban": true, "until": until})),
        16 => ("role", json!({"conversation": room, "user": user, "role": "reader", "until": until})),
        17 => ("settings", json!({"conversation": room, "slow": number % 3})),
        18 => ("settings", json!({"conversation": room, "rejoin": number.is_multiple_of(2)})),
        _ => ("rename", json!({"conversation": room, "title": user})),
    }
}

#[tokio::test]
async fn after_random_commands_the_folded_rows_match_the_log() {
    let server = Server::start().await;
    for seed in 0..4 {
        let mut random = SeededRandom(seed);
        let mut people: Vec<Person> = Vec::new();
        for name in USERS {
            people.push(server.connects(name).await);
        }
        if seed == 0 {
            people[0].makes_public_room("a", &["bob"]).await;
            people[1].makes_public_room("b", &[]).await;
        }
        let mut accepted = 0;
        for number in 0..400 {
            let actor = usize::try_from(random.random_below(4)).expect("few");
            let (name, fields) = random_command(&mut random, number);
            accepted += u32::from(people[actor].tries(name, fields).await.is_ok());
        }
        assert!(accepted > 100, "only {accepted} commands were accepted");
        assert_check_finds_no_problem(server.data());
    }
    assert!(server.connects("alice").await.welcome.user == user("alice"), "the server still works");
}

#[tokio::test]
async fn check_refuses_a_file_that_is_no_database() {
    let place = tempfile::TempDir::new().expect("a directory");
    let error = |path: &Path| format!("{:#}", check_database(path).expect_err("nothing to check"));
    assert!(error(place.path()).contains("switchboard.db"), "{}", error(place.path()));
    assert!(!place.path().join("switchboard.db").exists(), "no file was created");
    let file = place.path().join("precious");
    std::fs::write(&file, "a file of another program".repeat(100)).expect("written");
    assert!(error(&file).contains("not a database"), "{}", error(&file));
    std::fs::write(&file, "").expect("written");
    assert!(error(&file).contains("no tables of switchboard"), "{}", error(&file));
}
