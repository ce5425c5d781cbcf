//! Idempotency keys: a key is asked about once at a time, and never again once it is stored.

use std::collections::{HashMap, HashSet};

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use switchboard::config::Ask;
use switchboard_protocol::ErrorCode;

use super::{answer_of, server_asking};
use crate::support::{Application, Person, Question, Server, in_time};

#[tokio::test]
async fn two_requests_with_one_key_wait_for_one_answer() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut laptop, mut phone) = (server.connects("alice").await, server.connects("alice").await);
    let fields = json!({"to": "@bob", "key": "k", "text": "a"});
    let first = laptop.submits("send", fields.clone()).await;
    let question = application.is_asked().await;
    let second = phone.submits("send", fields.clone()).await;
    phone.receives_nothing().await;
    application.is_not_asked();
    question.answers(json!({"action": "replace", "text": "b"}));
    let (first, second) = (answer_of(&mut laptop, first).await, answer_of(&mut phone, second).await);
    assert_eq!((&first["seq"], &second["seq"]), (&json!(1), &json!(1)));
    assert_eq!((&first["event"]["text"], &second["event"]["text"]), (&json!("b"), &json!("b")));
    assert_eq!((first.get("duplicate"), &second["duplicate"]), (None, &json!(true)));
    application.is_not_asked();
    // The key belongs to alice: bob's is another one.
    let mut bob = server.connects("bob").await;
    let id = bob.submits("send", json!({"to": "@alice", "key": "k", "text": "c"})).await;
    application.is_asked().await.accepts();
    assert_eq!(answer_of(&mut bob, id).await["seq"], 2);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_not_stored_without_being_asked_about() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut laptop, mut phone) = (server.connects("alice").await, server.connects("alice").await);
    let first = laptop.submits("send", json!({"to": "@bob", "key": "k", "text": "a"})).await;
    let question = application.is_asked().await;
    let second = phone.submits("send", json!({"to": "@bob", "key": "k", "text": "z"})).await;
    phone.receives_nothing().await;
    question.refuses("no");
    assert_eq!(answer_of(&mut laptop, first).await["code"], "refused");
    let question = application.is_asked().await;
    assert_eq!(question.text(), "z", "the other request is asked about");
    question.accepts();
    assert_eq!(answer_of(&mut phone, second).await["seq"], 1);
    assert_eq!(
        laptop.is_refused("send", json!({"to": "@bob", "key": "k", "text": "a"})).await,
        ErrorCode::KeyConflict
    );
    application.is_not_asked();
}

#[tokio::test]
async fn a_question_outlives_its_connection_and_its_answer_serves_the_retry() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let fields = json!({"to": "@bob", "key": "k", "text": "a"});
    let mut lost = server.connects("alice").await;
    lost.submits("send", fields.clone()).await;
    let question = application.is_asked().await;
    let mut alice = server.connects("alice").await;
    let id = alice.submits("send", fields).await;
    drop(lost);
    alice.receives_nothing().await;
    application.is_not_asked();
    question.accepts();
    assert_eq!(answer_of(&mut alice, id).await["seq"], 1);
}

/// How many random steps the property is tried for.
const STEPS: usize = 1_500;

/// A request as the application sees it: the user, the key and the text.
type Request = (String, String, String);

/// Random users, connections, keys and answers.
struct World {
    server: Server,
    application: Application,
    random: fastrand::Rng,
    people: Vec<Person>,
    /// The requests of each connection without a reply, by id.
    sent: Vec<HashMap<i64, Request>>,
    asked: Vec<Question>,
    /// What the application allowed: user, key and the text to store.
    allowed: HashSet<Request>,
    /// The users and keys of which the clients know that they are stored.
    stored: HashSet<(String, String)>,
}

impl World {
    async fn begin(seed: u64) -> Self {
        let (server, application) = server_asking(&[Ask::Message]).await;
        let mut people = Vec::new();
        for n in 0..6 {
            people.push(server.connects(["alice", "bob", "carol"][n % 3]).await);
        }
        let sent = people.iter().map(|_| HashMap::new()).collect();
        let random = fastrand::Rng::with_seed(seed);
        let (asked, allowed, stored) = Default::default();
        Self { server, application, random, people, sent, asked, allowed, stored }
    }

    async fn send(&mut self) {
        let place = self.random.usize(..self.people.len());
        if self.sent[place].len() >= 6 {
            return;
        }
        let (key, text) = (format!("k{}", self.random.u8(..40)), format!("t{}", self.random.u8(..2)));
        let person = &mut self.people[place];
        let request = (person.name().to_string(), key.clone(), text.clone());
        let id = person.submits("send", json!({"to": "@dave", "key": key, "text": text})).await;
        self.sent[place].insert(id, request);
    }

    async fn reconnect(&mut self) {
        let place = self.random.usize(..self.people.len());
        let name = self.people[place].name().to_string();
        self.people[place] = self.server.connects(&name).await;
        self.sent[place].clear();
    }

    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let question = self.asked.swap_remove(self.random.usize(..self.asked.len()));
        let (user, key) = owner(&question);
        match self.random.u8(..4) {
            0 => question.refuses("no"),
            1 => {
                self.allowed.insert((user, key, "replaced".to_owned()));
                question.answers(json!({"action": "replace", "text": "replaced"}));
            }
            _ => {
                self.allowed.insert((user, key, question.text()));
                question.accepts();
            }
        }
    }

    /// Receives what has arrived, and checks the questions.
    async fn observe(&mut self) {
        tokio::task::yield_now().await;
        for (person, sent) in self.people.iter_mut().zip(&mut self.sent) {
            while let Some(Some(frame)) = person.client.next().now_or_never() {
                let frame: Value = serde_json::to_value(reply_in(frame.expect("a frame"))).expect("JSON");
                let Some((user, key, _)) = frame["id"].as_i64().and_then(|id| sent.remove(&id)) else {
                    continue;
                };
                if frame["type"] == "ok" {
                    self.stored.insert((user, key));
                }
            }
        }
        while let Some(question) = self.application.next_now() {
            let owner = owner(&question);
            assert!(
                self.asked.iter().all(|other| self::owner(other) != owner),
                "{owner:?} is asked about twice at once"
            );
            assert!(!self.stored.contains(&owner), "{owner:?} is stored, and is asked about");
            self.asked.push(question);
        }
    }

    /// Answers everything, and compares the log with what the application allowed.
    async fn end(mut self) {
        in_time("all replies", async {
            while !self.asked.is_empty() || self.sent.iter().any(|sent| !sent.is_empty()) {
                self.answer();
                self.observe().await;
            }
        })
        .await;
        let mut count = 0;
        for user in ["alice", "bob", "carol"] {
            let mut person = self.server.connects(user).await;
            let mut keys = HashSet::new();
            for event in person.log("@dave").await {
                let event = serde_json::to_value(&event).expect("JSON");
                let field = |name: &str| event[name].as_str().expect("a message").to_owned();
                let stored = (field("from"), field("key"), field("text"));
                assert!(self.allowed.contains(&stored), "{stored:?} was not allowed");
                assert!(keys.insert(stored.1.clone()), "{stored:?} is stored twice");
                count += 1;
            }
        }
        assert!(count >= self.stored.len() && count > 20, "{count} messages");
    }
}

/// The user and the key that a question is about.
fn owner(question: &Question) -> (String, String) {
    let data = question.data();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&data["user"]), text(&data["message"]["key"]))
}

fn reply_in(frame: switchboard_protocol::reply::ServerFrame) -> Option<switchboard_protocol::reply::Reply> {
    match frame {
        switchboard_protocol::reply::ServerFrame::Reply(reply) => Some(reply),
        _ => None,
    }
}

#[tokio::test]
async fn no_key_is_asked_about_twice_at_once_or_once_it_is_stored_and_only_what_was_allowed_is_stored() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut world = World::begin(seed).await;
    for _ in 0..STEPS {
        match world.random.u8(..100) {
            0..=1 => world.reconnect().await,
            2..=55 => world.send().await,
            _ => world.answer(),
        }
        world.observe().await;
    }
    world.end().await;
}
