//! `switchboard check`: what the server made is clean, whatever people did, and what is damaged is told.

mod corrupt;

pub(crate) use self::corrupt::damage;

use std::path::Path;

use serde_json::{Value, json};
use switchboard::check_database;

use crate::support::{Person, Server, user};

pub(crate) fn is_clean(path: &Path) {
    let problems: Vec<_> =
        check_database(path).expect("it can be checked").iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A server where everything that can happen has happened once.
async fn busy() -> Server {
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

/// The database of [`busy`], and nobody uses it.
async fn left_alone() -> Server {
    let mut server = busy().await;
    server.begins_to_stop();
    server.has_stopped().await;
    server
}

#[tokio::test]
async fn what_a_server_made_is_clean_while_it_runs_and_after() {
    let mut server = busy().await;
    is_clean(server.data());
    is_clean(&server.data().join("switchboard.db"));
    server.begins_to_stop();
    server.has_stopped().await;
    is_clean(server.data());
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        // Knuth's MMIX; the low bits are poor.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        let sides = all.len() as u64;
        all[usize::try_from(self.throw(sides)).expect("few")]
    }
}

const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dora"];

/// Something that somebody may or may not do.
fn anything(dice: &mut Dice, number: u64) -> (&'static str, Value) {
    let place = dice.of(&["#a", "#b", "@alice", "@bob", "@carol"]);
    let room = dice.of(&["#a", "#b"]);
    let target = 1 + dice.throw(40);
    let somebody = dice.of(&PEOPLE);
    match dice.throw(16) {
        0..=4 => ("send", json!({"to": place, "text": "hi", "key": (number / 2).to_string()})),
        5 => ("send", json!({"to": place, "data": {"n": number}, "reply_to": target})),
        6 => ("edit", json!({"conversation": place, "target": target, "text": "hello"})),
        7 => ("delete", json!({"conversation": place, "target": target})),
        8 | 9 => {
            let (emoji, on) = (dice.of(&["👍", "🎉"]), dice.throw(2) == 0);
            ("react", json!({"conversation": place, "target": target, "emoji": emoji, "on": on}))
        }
        10 => (dice.of(&["read", "received"]), json!({"conversation": place, "upto": target})),
        11 => ("join", json!({"conversation": room})),
        12 => ("leave", json!({"conversation": room})),
        13 => {
            let role = dice.of(&["admin", "member", "reader"]);
            (dice.of(&["invite", "role"]), json!({"conversation": room, "user": somebody, "role": role}))
        }
        14 => ("remove", json!({"conversation": room, "user": somebody})),
        _ => ("rename", json!({"conversation": room, "title": somebody})),
    }
}

#[tokio::test]
async fn whatever_people_do_the_folded_rows_are_what_the_log_says() {
    let server = Server::start().await;
    for seed in 0..4 {
        let mut dice = Dice(seed);
        let mut people: Vec<Person> = Vec::new();
        for name in PEOPLE {
            people.push(server.connects(name).await);
        }
        if seed == 0 {
            people[0].makes_public_room("a", &["bob"]).await;
            people[1].makes_public_room("b", &[]).await;
        }
        let mut obeyed = 0;
        for number in 0..400 {
            let actor = usize::try_from(dice.throw(4)).expect("few");
            let (name, fields) = anything(&mut dice, number);
            obeyed += u32::from(people[actor].tries(name, fields).await.is_ok());
        }
        assert!(obeyed > 100, "only {obeyed} commands were obeyed");
        is_clean(server.data());
    }
    assert!(server.connects("alice").await.welcome.user == user("alice"), "and it goes on");
}

#[tokio::test]
async fn what_is_no_database_cannot_be_checked() {
    let place = tempfile::TempDir::new().expect("a directory");
    let told = |path: &Path| format!("{:#}", check_database(path).expect_err("nothing to check"));
    assert!(told(place.path()).contains("switchboard.db"), "{}", told(place.path()));
    assert!(!place.path().join("switchboard.db").exists(), "nothing is made");
    let file = place.path().join("precious");
    std::fs::write(&file, "something of somebody else's".repeat(100)).expect("written");
    assert!(told(&file).contains("not a database"), "{}", told(&file));
    std::fs::write(&file, "").expect("written");
    assert!(told(&file).contains("no tables of switchboard"), "{}", told(&file));
}
