//! How much read cursors in the middle of a long log delay the sends of other users.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use switchboard_protocol::reply::{Reply, ServerFrame};
use tokio::time::Instant;

use crate::support::{Person, Server, SharedEngines, in_time};

/// The most by which the attack may delay another user's send.
const MAX_EXTRA_DELAY: Duration = Duration::from_millis(40);

/// Messages that the user sends one after another, before the attack and in each of its rounds.
const SENDS_PER_ROUND: usize = 300;

/// Sends messages one after another and returns the longest time until an `ok`.
async fn slowest_send(person: &mut Person, to: &str, sends: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for n in 0..sends {
        let sent = Instant::now();
        person.says(to, &n.to_string()).await;
        slowest = slowest.max(sent.elapsed());
        // waits for: the next send that the rate allows
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    slowest
}

/// Receives this number of answers. Returns how many are errors, and the time until the last one.
async fn wait_for_answers(person: &mut Person, expected: usize) -> (usize, Duration) {
    let began = Instant::now();
    let (mut answered, mut refused) = (0, 0);
    while answered < expected {
        match in_time("an answer", person.next()).await {
            ServerFrame::Reply(Reply::Ok(_)) => answered += 1,
            ServerFrame::Reply(_) => {
                answered += 1;
                refused += 1;
            }
            _ => {}
        }
    }
    (refused, began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn read_cursors_in_a_long_note_to_self_delay_no_send_on_postgresql() {
    const EVENTS: u64 = 600_000;
    let shared = SharedEngines::without_bus().await;
    let mut server = Server::start_with_auth_and(|config| {
        shared.configure(config);
        // The other user sends without pauses, so the send rates are off.
        config.limits.sends_per_connection = 0;
        config.limits.sends_per_user = 0;
    })
    .await;
    server.connects("mallory").await.says("@mallory", "first").await;
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let url = shared.store.expose();
    let database = url.rsplit('/').next().and_then(|name| name.split('?').next()).expect("a database");
    let build = format!(
        "INSERT INTO events SELECT c.id, i, 1, u.id, c.at, i, 'k' || i, '{{\"text\":\"x\"}}'
             FROM conversations c, users u, generate_series(2, {EVENTS}) i
             WHERE c.name = '@mallory:mallory' AND u.name = 'mallory';
         UPDATE conversations SET head = {EVENTS}, messages = {EVENTS}, last_message = {EVENTS}
             WHERE name = '@mallory:mallory';
         UPDATE members SET sent = {EVENTS};"
    );
    postgres.psql_in(database, &build).await.expect("a long log");
    postgres.psql_in(database, "VACUUM ANALYZE").await.expect("statistics");
    server.restart().await;
    let mut bob = server.connects("bob").await;
    let quiet = slowest_send(&mut bob, "@zoe", SENDS_PER_ROUND).await;
    let mut worst = Duration::ZERO;
    for round in 0..3_u64 {
        // Mallory sends as many frames as a connection may send in one burst.
        let mut mallory = server.connects("mallory").await;
        let attack = async {
            for n in 0..490 {
                let upto = EVENTS / 2 + round * 490 + n;
                mallory.submits("read", json!({"conversation": "@mallory", "upto": upto})).await;
            }
            wait_for_answers(&mut mallory, 490).await
        };
        let (slowest, (refused, took)) =
            tokio::join!(slowest_send(&mut bob, "@zoe", SENDS_PER_ROUND), attack);
        println!(
            "round {round}: 490 reads answered after {took:?}, {refused} refused; slowest send {slowest:?}"
        );
        assert_eq!(refused, 0);
        worst = worst.max(slowest);
    }
    println!("slowest send: {quiet:?} in the quiet part, {worst:?} beside the reads");
    assert!(worst <= quiet + MAX_EXTRA_DELAY, "{worst:?} is more than {MAX_EXTRA_DELAY:?} above {quiet:?}");
    let mut mallory = server.connects("mallory").await;
    assert_eq!(mallory.summary("@mallory:mallory").await.unread, 0, "the user's own messages are not unread");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn read_cursors_in_the_middle_of_a_large_room_delay_no_send_on_sqlite() {
    const EVENTS: u64 = 250_000;
    const MEMBERS: usize = 12;
    let mut server = Server::start_with_auth_and(|config| {
        config.limits.sends_per_connection = 0;
        config.limits.sends_per_user = 0;
    })
    .await;
    let names: Vec<_> = (0..MEMBERS).map(|n| format!("member-{n}")).collect();
    let mut alice = server.connects("alice").await;
    alice.makes_room("big", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    drop(alice);
    let database = server.data().join("switchboard.db");
    server.begin_shutdown();
    server.wait_until_stopped().await;
    Connection::open(database)
        .expect("a database")
        .execute_batch(&format!(
            "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
                 WITH RECURSIVE n (seq) AS (SELECT 2 UNION ALL SELECT seq + 1 FROM n WHERE seq < {EVENTS})
                 SELECT c.id, n.seq, 1, u.id, c.at, n.seq - 1, 'k' || n.seq,
                     '{{\"text\":\"' || printf('%0200d', n.seq) || '\"}}'
                 FROM n, conversations c, users u WHERE c.name = '#big' AND u.name = 'alice';
             UPDATE conversations SET head = {EVENTS}, messages = {EVENTS} - 1, last_message = {EVENTS};
             UPDATE members SET sent = {EVENTS} - 1 WHERE user = (SELECT id FROM users WHERE name = 'alice')"
        ))
        .expect("a long log");
    server.start_again().await;
    let mut bob = server.connects("bob").await;
    let quiet = slowest_send(&mut bob, "@zoe", SENDS_PER_ROUND).await;
    let mut members = Vec::new();
    for name in &names {
        members.push(server.connects(name).await);
    }
    let attack = async {
        let began = Instant::now();
        for (n, member) in members.iter_mut().enumerate() {
            let upto = EVENTS / 2 + n as u64;
            member.submits("read", json!({"conversation": "#big", "upto": upto})).await;
        }
        for member in &mut members {
            assert_eq!(wait_for_answers(member, 1).await.0, 0);
        }
        began.elapsed()
    };
    let (worst, took) = tokio::join!(slowest_send(&mut bob, "@zoe", SENDS_PER_ROUND), attack);
    println!("{MEMBERS} reads in the middle of {EVENTS} events answered after {took:?}");
    println!("slowest send: {quiet:?} in the quiet part, {worst:?} beside the reads");
    assert!(worst <= quiet + MAX_EXTRA_DELAY, "{worst:?} is more than {MAX_EXTRA_DELAY:?} above {quiet:?}");
    let unread = members[0].summary("#big").await.unread;
    assert_eq!(unread, EVENTS - EVENTS / 2);
}
