//! Prices: a command that names many members, makes or erases many rows costs its user that many sends.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::{ErrorCode, Limits};
use tokio::time::Instant;

use crate::http::api_key;
use crate::limits::hi;
use crate::support::Server;

const HOUR: Duration = Duration::from_secs(3_600);

/// Default rates of a user, and no other.
pub(crate) fn rates_of_a_user() -> Limits {
    Limits { sends_per_user: 50, ..Limits::default().without_rates() }
}

/// `create` with so many members.
pub(crate) fn room_of(members: usize) -> Value {
    json!({"members": (0..members).map(|n| format!("member{n}")).collect::<Vec<_>>()})
}

#[tokio::test]
async fn hostile_26_a_room_of_many_costs_a_send_for_each_of_them() {
    let server = Server::serves_with(|config| config.limits = rates_of_a_user()).await;
    let token = server.token("mallory", HOUR);
    let begun = Instant::now();
    let first = server.posts_as(&token, "create", room_of(1_000)).await;
    first.ok();
    let mut made = 1;
    let refused = loop {
        let answer = server.posts_as(&token, "create", room_of(1_000)).await;
        if answer.status != 200 {
            break answer;
        }
        made += 1;
    };
    let full_buckets = begun.elapsed().as_secs() / 20;
    assert!(made <= 1 + full_buckets, "{made} rooms in {:?}", begun.elapsed());
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    let wait = refused.json()["retry_after"].as_u64().expect("how long");
    assert!((5_000..=20_020).contains(&wait), "the debt, and a full bucket after it: {wait} ms");
    let mut phone = server.connects("mallory").await;
    let send = phone.tries("send", hi()).await.expect_err("the debt holds at every door");
    assert_eq!((send.code, send.retryable), (ErrorCode::RateLimited, true));
    assert!(send.retry_after.is_some_and(|ms| ms < wait), "one send needs no full bucket: {send:?}");
    server.connects("carol").await.says("@bob", "others go on").await;
}

#[tokio::test]
async fn hostile_26_an_invitation_costs_two_sends() {
    let server = Server::serves_with(|config| {
        config.limits = Limits { sends_per_user: 4, ..Limits::default().without_rates() };
    })
    .await;
    let mut eve = server.connects("eve").await;
    let begun = Instant::now();
    eve.makes_room("spam", &["bob"]).await;
    let mut invited = 0;
    let failure = loop {
        match eve.tries("invite", json!({"conversation": "#spam", "user": format!("user{invited}")})).await {
            Ok(_) => invited += 1,
            Err(failure) => break failure,
        }
    };
    let meanwhile = begun.elapsed().as_secs_f64() * 4.0;
    assert!(invited >= 9, "20 sends are a room with a member and nine invitations: {invited}");
    assert!(f64::from(invited) <= 9.0 + meanwhile / 2.0, "{invited} in {:?}", begun.elapsed());
    assert_eq!(failure.code, ErrorCode::RateLimited);
}

#[tokio::test]
async fn an_api_key_has_a_rate_of_its_own() {
    let server = Server::serves_with(|config| {
        config.limits = Limits { sends_per_key: 2, sends_per_user: 1, ..Limits::default().without_rates() };
    })
    .await;
    let (shop, billing) = (api_key(&server, "shop"), api_key(&server, "billing"));
    let begun = Instant::now();
    let mut stored = 0;
    let refused = loop {
        // Each as another user: it is the key whose rate this is.
        let body = json!({"as": format!("bot{stored}"), "to": "@bob", "text": "hi"});
        let answer = server.posts_as(&shop, "send", body).await;
        if answer.status != 200 {
            break answer;
        }
        stored += 1;
    };
    assert!(stored >= 10, "five seconds' worth at once: {stored}");
    assert!(f64::from(stored) <= 10.0 + 2.0 * begun.elapsed().as_secs_f64(), "{stored}");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    server.posts_as(&billing, "send", json!({"as": "bot0", "to": "@bob", "text": "hi"})).await.ok();
}
