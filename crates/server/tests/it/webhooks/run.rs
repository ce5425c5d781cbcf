//! Many messages to endpoints with every fault, while servers are killed: what an endpoint has taken and what is parked are together
//! the log.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::book::{Book, Faults};
use super::nodes::{Door, MovedClock, Nodes};
use crate::support::{Receiver, SharedEngines, in_time};

/// How many tasks send messages.
const SENDERS: usize = 16;

/// The clock goes on by this many seconds in each step of this length.
const CLOCK_STEP: (i64, Duration) = (600, Duration::from_millis(50));

/// How many steps of the clock pass between two looks at the webhooks.
const STEPS_PER_LOOK: usize = 20;

const DAY: i64 = 86_400;

/// The conversations of the senders. A `dev` server begins with messages of its own in another one.
pub(crate) const CONVERSATIONS: &str = "@s*";

/// How often an endpoint that is down for a day may be tried: every 30 minutes, more often at first, and at once after each kill.
const MAX_TRIES_IN_A_DAY: usize = 70;

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) messages: usize,
    pub(crate) conversations: usize,
    pub(crate) kills: usize,
    /// How long the node that sends is stopped before it goes on, if there are several.
    pub(crate) freeze: Option<Duration>,
    /// How long it may take.
    pub(crate) deadline: Duration,
}

/// What is part of `make test`.
const SMALL: Size =
    Size { messages: 300, conversations: 20, kills: 2, freeze: None, deadline: Duration::from_secs(120) };

struct Endpoint {
    name: &'static str,
    book: Arc<Mutex<Book>>,
    receiver: Receiver,
}

impl Endpoint {
    async fn start(name: &'static str, faults: Faults, door: &Door) -> Self {
        let book = Arc::new(Mutex::new(Book::new(faults)));
        let answering = book.clone();
        let receiver = Receiver::start_answering(move |received| {
            answering.lock().unwrap_or_else(PoisonError::into_inner).answer(received)
        })
        .await;
        let body = json!({
            "name": name, "url": receiver.url(), "types": ["message"], "only": [CONVERSATIONS], "from": "0",
        });
        let added = door.posts(0, "add_webhook", &body).await;
        let endpoint = Self { name, book, receiver };
        endpoint.book().set_secret(added["secret"].as_str().expect("a secret").to_owned());
        endpoint
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the messages of some conversations, one after another in each. Returns their places in the log by their texts.
async fn send(
    door: Door,
    size: Size,
    sender: usize,
    stored: Arc<AtomicUsize>,
) -> Vec<(String, (String, u64))> {
    let mut places = Vec::new();
    for number in (sender..size.messages).step_by(SENDERS) {
        let to = format!("@u{}", (number / SENDERS) % size.conversations.div_ceil(SENDERS));
        let body = json!({
            "as": format!("s{sender}"), "to": to, "key": format!("k{number}"), "text": number.to_string(),
        });
        let answer = door.posts(number, "send", &body).await;
        let conversation = answer["conversation"].as_str().expect("a conversation").to_owned();
        places.push((number.to_string(), (conversation, answer["seq"].as_u64().expect("a seq"))));
        stored.fetch_add(1, Ordering::SeqCst);
    }
    places
}

/// Sends all messages. The result is their places in the log by their texts.
pub(crate) fn start_senders(
    door: &Door,
    size: Size,
    stored: &Arc<AtomicUsize>,
) -> JoinSet<Vec<(String, (String, u64))>> {
    let sending = |sender| send(door.clone(), size, sender, stored.clone());
    (0..SENDERS).map(sending).collect()
}

/// Moves the clock on, and resumes webhooks that are paused because their endpoint answered 410.
async fn tend(door: Door, clock: MovedClock) {
    for step in 1.. {
        clock.advance(CLOCK_STEP.0);
        if step % STEPS_PER_LOOK == 0 {
            for webhook in door.list().await {
                if webhook["paused"].is_string() {
                    door.posts(0, "resume_webhook", &json!({"name": webhook["name"]})).await;
                }
            }
        }
        // waits for: the servers, which work between two steps of the clock
        tokio::time::sleep(CLOCK_STEP.1).await;
    }
}

/// Waits until a condition holds that nothing announces.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        // waits for: the next look
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All messages in the feed: their ids, and their conversations and numbers by their texts.
async fn read_feed(door: &Door) -> (HashSet<String>, HashMap<String, (String, u64)>) {
    let (mut ids, mut places) = (HashSet::new(), HashMap::new());
    let mut after = "0".to_owned();
    loop {
        let body = json!({"after": after, "limit": 500, "types": ["message"]});
        let page = door.posts(0, "feed", &body).await;
        for entry in page["entries"].as_array().expect("entries") {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let event = &entry["event"];
            let place = (text(&event["conversation"]), event["seq"].as_u64().expect("a seq"));
            if !place.0.starts_with(CONVERSATIONS.trim_end_matches('*')) {
                continue;
            }
            assert!(ids.insert(text(&entry["id"])), "one id for two entries: {entry}");
            assert!(places.insert(text(&event["text"]), place).is_none(), "stored twice: {entry}");
        }
        if page["more"] == false {
            return (ids, places);
        }
        after = page["next"].as_str().expect("a cursor").to_owned();
    }
}

fn parked(listed: &Value) -> HashSet<String> {
    let ids = listed["parked"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("an id").to_owned()).collect()
}

/// Compares what an endpoint has taken and what is parked with the log. Returns what to report.
fn check(endpoint: &Endpoint, listed: &Value, ids: &HashSet<String>) -> String {
    let (name, book, parked) = (endpoint.name, endpoint.book(), parked(listed));
    assert_eq!(book.wrong, [""; 0], "{name}");
    let taken: HashSet<_> = book.taken.keys().cloned().collect();
    assert!(taken.is_disjoint(&parked), "{name}");
    assert_eq!(parked, book.refused, "{name}: exactly those are parked that are never taken");
    let together: HashSet<_> = taken.union(&parked).cloned().collect();
    let missing: Vec<_> = ids.difference(&together).collect();
    let foreign: Vec<_> = together.difference(ids).collect();
    assert!(missing.is_empty() && foreign.is_empty(), "{name}: not {missing:?}, but {foreign:?}");
    format!(
        "{name}: {} requests, {} taken, {} parked, {} came again",
        book.requests,
        taken.len(),
        parked.len(),
        book.duplicates()
    )
}

async fn start_endpoints(door: &Door, size: Size) -> [Endpoint; 4] {
    let refuses = Faults { refuses_one_in: Some((size.messages / 40).max(40)), ..Faults::default() };
    let every = Some((size.messages / 200).max(20));
    let faulty = Faults { every, max_hangs: (size.messages / 10_000).clamp(1, 3), ..refuses };
    [
        Endpoint::start("good", Faults::default(), door).await,
        Endpoint::start("faulty", faulty, door).await,
        Endpoint::start("refusing", refuses, door).await,
        Endpoint::start("down", Faults::default(), door).await,
    ]
}

/// One run. Returns what it measured, for a person.
pub(crate) async fn run(shared: Option<SharedEngines>, size: Size) -> String {
    let ran = tokio::time::timeout(size.deadline, async {
        let mut nodes = Nodes::start(shared).await;
        let (door, clock) = (nodes.door.clone(), nodes.clock.clone());
        let endpoints = start_endpoints(&door, size).await;
        let [good, .., down] = &endpoints;
        let mut tending = JoinSet::new();
        tending.spawn(tend(door.clone(), clock.clone()));
        let began = Instant::now();
        down.receiver.set_down(true);
        let up_again = clock.offset() + DAY;
        let stored = Arc::new(AtomicUsize::new(0));
        let senders = start_senders(&door, size, &stored);
        for kill in 1..=size.kills {
            let count = size.messages * kill / (size.kills + 2);
            until(async || stored.load(Ordering::SeqCst) >= count).await;
            if kill % 2 == 1 {
                // The endpoint has the request, and the server is killed before the answer.
                let held = good.book().hold_next();
                in_time("a request", held).await.expect("the endpoint runs");
            }
            nodes.kill_sender_of(good.name).await;
            endpoints.iter().for_each(|endpoint| endpoint.book().forget_retry_after());
        }
        if let (Some(freeze), true) = (size.freeze, nodes.are_several()) {
            nodes.freeze_sender_of(good.name, freeze).await;
        }
        let places: HashMap<_, _> = senders.join_all().await.into_iter().flatten().collect();
        let mut report = vec![format!("{} messages in {:?}", places.len(), began.elapsed())];
        until(async || clock.offset() >= up_again).await;
        down.receiver.set_down(false);
        until(async || {
            let list = door.list().await;
            endpoints.iter().all(|endpoint| {
                let listed = list.iter().find(|listed| listed["name"] == endpoint.name).expect("it is there");
                listed["held"] == json!([])
                    && endpoint.book().taken.len() + parked(listed).len() >= size.messages
            })
        })
        .await;
        report.push(format!("everything was taken or parked after {:?}", began.elapsed()));
        let (ids, in_feed) = read_feed(&door).await;
        assert_eq!(in_feed, places, "the feed is what was acknowledged");
        let list = door.list().await;
        for endpoint in &endpoints {
            let listed = list.iter().find(|listed| listed["name"] == endpoint.name).expect("it is there");
            report.push(check(endpoint, listed, &ids));
        }
        let tries = down.receiver.refused();
        report.push(format!("{tries} tries in the day on which the endpoint was down"));
        assert!(tries <= MAX_TRIES_IN_A_DAY + 8 * size.kills, "{tries} tries");
        report.join("\n")
    });
    ran.await.expect("the run ends in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_and_what_is_parked_are_the_log_of_a_server_that_is_killed() {
    println!("{}", run(None, SMALL).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_and_what_is_parked_are_the_log_of_three_nodes_that_are_killed() {
    println!("{}", run(Some(SharedEngines::new().await), SMALL).await);
}
