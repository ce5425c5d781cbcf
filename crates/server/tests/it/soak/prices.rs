//! How much the commands of one user delay others, at full size.

mod rows;

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use switchboard_protocol::Limits;

use crate::hostile::prices::{create_room_command, user_rates_only};
use crate::support::{Person, Server};

/// Sends messages one after another and returns the longest time until an `ok`.
async fn slowest_send(sends: usize, person: &mut Person) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..sends {
        let begun = Instant::now();
        person.says("@bystander", "hi").await;
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// Measures the slowest `sync` of one event while two users repeatedly request a page of one member.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn member_pages_of_a_large_room_delay_no_send() {
    let server =
        Server::start_with_auth_and(|config| config.limits = Limits::default().without_rates()).await;
    let token = |name: &str| server.token(name, Duration::from_secs(3_600));
    let made = server.posts_as(&token("eve"), "create", json!({"room": "big", "public": true})).await;
    made.ok();
    for hundred in 0..100 {
        let members: Vec<_> = (0..1_000).map(|n| format!("user{hundred}x{n}")).collect();
        server
            .posts_as(&token("eve"), "create", json!({"room": format!("r{hundred}"), "members": members}))
            .await
            .ok();
    }
    rows::add_every_user_to(&server, "#big");
    let mut bystander = server.connects("bystander").await;
    bystander.says("@eve", "hi").await;
    let slowest = async |person: &mut Person| {
        let mut slowest = Duration::ZERO;
        for _ in 0..200 {
            let begun = Instant::now();
            person.does("sync", json!({"conversation": "@eve", "after": 0})).await;
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let quiet = slowest(&mut bystander).await;
    let (mut eve, mut user) = (server.connects("eve").await, server.connects("user0x0").await);
    let (mut pages, begun) = ([0; 2], Instant::now());
    let asks = async |person: &mut Person, pages: &mut usize| {
        loop {
            person.does("members", json!({"conversation": "#big", "limit": 1})).await;
            *pages += 1;
        }
    };
    let [first, second] = &mut pages;
    let busy = tokio::select! {
        busy = slowest(&mut bystander) => busy,
        () = asks(&mut eve, first) => unreachable!("it has no end"),
        () = asks(&mut user, second) => unreachable!("it has no end"),
    };
    println!("{pages:?} pages of one of 100,000 members in {:?}", begun.elapsed());
    println!("a bystander's slowest `sync`: {quiet:?} before, {busy:?} meanwhile");
    assert!(busy <= quiet + Duration::from_millis(40), "{busy:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_hundred_rooms_of_a_thousand_are_refused_after_the_burst() {
    let server = Server::start_with_auth_and(|config| config.limits = user_rates_only()).await;
    let mut bystander = server.connects("bystander").await;
    let quiet = slowest_send(20, &mut bystander).await;
    let token = server.token("mallory", Duration::from_secs(3_600));
    let begun = Instant::now();
    let attack = async {
        let mut statuses = std::collections::BTreeMap::<(u16, String), usize>::new();
        for room in 0..100 {
            let mut body = create_room_command(1_000);
            body["room"] = json!(format!("room{room}"));
            let answer = server.posts_as(&token, "create", body).await;
            let code = if answer.status == 200 { "ok".to_owned() } else { answer.code() };
            *statuses.entry((answer.status, code)).or_default() += 1;
        }
        (statuses, begun.elapsed())
    };
    let (slowest, (statuses, took)) = tokio::join!(slowest_send(100, &mut bystander), attack);
    println!("100 creates of 1,000 members in {took:?}: {statuses:?}");
    println!("a bystander's slowest send: {quiet:?} before, {slowest:?} meanwhile");
    let stored = statuses.get(&(200, "ok".to_owned())).copied().unwrap_or(0);
    assert!(stored <= 1 + usize::try_from(took.as_secs() / 20).expect("a few"), "{statuses:?}");
    assert_eq!(statuses.get(&(429, "rate_limited".to_owned())).copied().unwrap_or(0), 100 - stored);
    assert!(
        slowest <= quiet + Duration::from_millis(100),
        "one room of 1,000 is one transaction: {slowest:?}"
    );
}

/// Deletes messages with many edits. Returns another user's slowest send before and during the deletions, and how many
/// deletions were refused.
async fn measure_deletions(sends_per_user: u32, messages: u32) -> (Duration, Duration, usize) {
    let mut server = Server::start_with_auth_and(|config| {
        config.limits = Limits { sends_per_user, ..Limits::default().without_rates() };
    })
    .await;
    let token = server.token("mallory", Duration::from_secs(3_600));
    server.posts_as(&token, "send", json!({"to": "@mallory", "text": "x"})).await.ok();
    server.begin_shutdown();
    server.wait_until_stopped().await;
    rows::insert_many_edits(&server, messages);
    server.start_again().await;
    let mut bystander = server.connects("bystander").await;
    let quiet = slowest_send(20, &mut bystander).await;
    let attack = async {
        let deletions = (0..messages).map(|n| {
            let body = json!({"conversation": "@mallory", "target": 2 + n * 501});
            server.posts_as(&token, "delete", body)
        });
        let answers = futures_util::future::join_all(deletions).await;
        answers.iter().filter(|answer| answer.status == 429).count()
    };
    let (slowest, refused) = tokio::join!(slowest_send(40, &mut bystander), attack);
    (quiet, slowest, refused)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn deletions_of_messages_with_many_edits_do_not_delay_the_writer() {
    const EDITED_MESSAGES: u32 = 30;
    for sends_per_user in [0, 50] {
        let (quiet, slowest, refused) = measure_deletions(sends_per_user, EDITED_MESSAGES).await;
        println!(
            "{EDITED_MESSAGES} deletions of 500 edits of 16 KB, {sends_per_user} sends a second: {refused} refused; \
             a bystander's slowest send: {quiet:?} before, {slowest:?} meanwhile"
        );
        if sends_per_user > 0 {
            assert!(refused >= EDITED_MESSAGES as usize - 3, "{refused}");
            assert!(slowest <= quiet + Duration::from_millis(400), "{slowest:?}");
        }
    }
}
