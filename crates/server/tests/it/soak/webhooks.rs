//! Webhooks at full size: many messages with every fault, an endpoint that is down behind many conversations, an endpoint that hangs
//! beside nine others, and how much one processor sends.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Receiver, Reply, SharedEngines};
use crate::webhooks::nodes::{Door, Nodes};
use crate::webhooks::run::{CONVERSATIONS, Size, run, start_senders, until};

/// A run as large as the contract asks for.
const FULL: Size = Size {
    messages: 100_000,
    conversations: 200,
    kills: 6,
    freeze: Some(Duration::from_secs(35)),
    deadline: Duration::from_secs(900),
};

const DAY: i64 = 86_400;

/// How long an endpoint that hangs is watched: longer than two requests take.
const WATCH: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_hundred_thousand_messages_of_a_server_that_is_killed_are_taken_or_parked() {
    println!("{}", run(None, FULL).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_hundred_thousand_messages_of_three_nodes_that_are_killed_are_taken_or_parked() {
    println!("{}", run(Some(SharedEngines::new().await), FULL).await);
}

async fn sends(door: &Door, messages: usize, conversations: usize) {
    let size = Size { messages, conversations, kills: 0, freeze: None, deadline: Duration::ZERO };
    start_senders(door, size, &Arc::default()).join_all().await;
}

async fn adds(door: &Door, name: &str, receiver: &Receiver, from: &str) {
    let only = [CONVERSATIONS];
    let body = json!({"name": name, "url": receiver.url(), "types": ["message"], "only": only, "from": from});
    door.posts(0, "add_webhook", &body).await;
}

/// The value of a metric; 0 if there is none yet.
async fn metric(nodes: &Nodes, name: &str) -> f64 {
    let page = nodes.first().gets("/metrics").await;
    let line = page.text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

/// What an endpoint does that is down at first, and what it sees.
#[derive(Default)]
struct Down {
    is_up: AtomicBool,
    hangs: AtomicBool,
    requests: AtomicUsize,
    /// The most requests in flight, those of the beginning left out.
    most: AtomicUsize,
    taken: Mutex<HashSet<String>>,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn an_endpoint_that_is_down_behind_ten_thousand_conversations_gets_one_request_at_a_time() {
    let nodes = Nodes::start(None).await;
    sends(&nodes.door, 10_000, 10_000).await;
    let down = Arc::new(Down::default());
    let answering = down.clone();
    let receiver = Receiver::start_answering(move |received| {
        let down = &answering;
        let number = down.requests.fetch_add(1, Ordering::SeqCst);
        if down.is_up.load(Ordering::SeqCst) {
            down.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(received.id.clone());
            return Reply::Status(204);
        }
        // The first eight are in flight when the first of them fails.
        if number >= 8 {
            down.most.fetch_max(received.in_flight, Ordering::SeqCst);
        }
        if down.hangs.load(Ordering::SeqCst) { Reply::Hang } else { Reply::Status(503) }
    })
    .await;
    adds(&nodes.door, "down", &receiver, "0").await;
    until(async || down.requests.load(Ordering::SeqCst) > 8).await;
    while nodes.clock.offset() < DAY {
        nodes.clock.advance(600);
        // waits for: a try, if one is due; the server looks twice a second
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let tries = down.requests.load(Ordering::SeqCst);
    println!("{tries} tries in a day, at most {} at a time", down.most.load(Ordering::SeqCst));
    assert_eq!(down.most.load(Ordering::SeqCst), 1);
    assert!((40..=70).contains(&tries), "{tries} tries");

    down.hangs.store(true, Ordering::SeqCst);
    let (began, mut most) = (Instant::now(), 0.0_f64);
    while began.elapsed() < WATCH {
        nodes.clock.advance(600);
        most = most.max(metric(&nodes, r#"switchboard_webhook_requests_in_flight{webhook="down"}"#).await);
        // waits for: the next look
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let hanging = down.requests.load(Ordering::SeqCst) - tries;
    println!("{hanging} requests that hang in {WATCH:?}, at most {most} at a time");
    assert!((0.5..1.5).contains(&most) && (1..=3).contains(&hanging));

    down.is_up.store(true, Ordering::SeqCst);
    let (before, began) = (down.requests.load(Ordering::SeqCst), Instant::now());
    until(async || {
        nodes.clock.advance(600);
        down.taken.lock().unwrap_or_else(PoisonError::into_inner).len() == 10_000
    })
    .await;
    println!("10,000 entries are taken {:?} after the endpoint is up", began.elapsed());
    assert_eq!(down.requests.load(Ordering::SeqCst) - before, 10_000, "each once");
}

/// When each message was sent, and how long it took to each endpoint that took it.
#[derive(Default)]
struct Times {
    sent: HashMap<String, Instant>,
    took: Vec<Duration>,
}

/// How long each phase of the measurement is, and how often a message is sent.
const PHASE: Duration = Duration::from_secs(8);
const SEND_INTERVAL: Duration = Duration::from_millis(5);

/// Sends messages for a while, and returns how long each took to each of the endpoints that take it.
async fn measure(door: &Door, times: &Mutex<Times>, phase: usize) -> Vec<Duration> {
    let lock = || times.lock().unwrap_or_else(PoisonError::into_inner);
    let (began, mut ticks) = (Instant::now(), tokio::time::interval(SEND_INTERVAL));
    let mut count = 0;
    while began.elapsed() < PHASE {
        ticks.tick().await;
        let text = format!("{phase}-{count}");
        lock().sent.insert(text.clone(), Instant::now());
        let to = format!("@u{}", count % 50);
        door.posts(0, "send", &json!({"as": "sender", "to": to, "text": text})).await;
        count += 1;
    }
    until(async || lock().took.len() >= count * 9).await;
    std::mem::take(&mut lock().took)
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn one_of_ten_endpoints_that_hangs_does_not_delay_the_others() {
    let nodes = Nodes::start(None).await;
    let times = Arc::new(Mutex::new(Times::default()));
    let mut receivers = Vec::new();
    for number in 0..9 {
        let times = times.clone();
        let receiver = Receiver::start_answering(move |received| {
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sent) = times.sent.get(&received.text()).copied() {
                times.took.push(sent.elapsed());
            }
            Reply::Status(204)
        })
        .await;
        adds(&nodes.door, &format!("good-{number}"), &receiver, "now").await;
        receivers.push(receiver);
    }
    let tenth = Receiver::start_answering(|_| Reply::Status(204)).await;
    let mut measured = [Vec::new(), Vec::new()];
    // The first phase warms up.
    for phase in 0..9 {
        let hangs = phase % 2 == 1;
        tenth.answers(move |_| if hangs { Reply::Hang } else { Reply::Status(204) });
        adds(&nodes.door, "tenth", &tenth, "now").await;
        let times = measure(&nodes.door, &times, phase).await;
        if phase > 0 {
            measured[usize::from(hangs)].extend(times);
        }
        nodes.door.posts(0, "remove_webhook", &json!({"name": "tenth"})).await;
    }
    let [all_answer, one_hangs] = measured.map(p99);
    println!(
        "p99 from a message to an endpoint: {all_answer:?} if all answer, {one_hangs:?} while one hangs"
    );
    assert!(one_hangs <= all_answer.mul_f64(1.2) + Duration::from_millis(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn one_processor_sends_two_thousand_entries_a_second() {
    const ENTRIES: usize = 20_000;
    let nodes = Nodes::start(None).await;
    let server = nodes.first();
    server.run_on_one_processor().await;
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let arriving = arrived.clone();
    let receiver = Receiver::start_answering(move |_| {
        arriving.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        Reply::Status(204)
    })
    .await;
    sends(&nodes.door, ENTRIES, 200).await;
    let before = server.processor_time();
    adds(&nodes.door, "fast", &receiver, "0").await;
    let lock = || arrived.lock().unwrap_or_else(PoisonError::into_inner);
    until(async || lock().len() >= ENTRIES).await;
    let used = server.processor_time() - before;
    let took = *lock().last().expect("the last one") - lock()[0];
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let rate = |time: Duration| ENTRIES as f64 / time.as_secs_f64();
    println!("{ENTRIES} entries of 200 conversations in {took:?}: {:.0} a second", rate(took));
    println!("{used:?} of one processor: {:.0} entries for each second of it", rate(used));
    assert!(rate(took) >= 2_000.0, "{took:?}");
}
