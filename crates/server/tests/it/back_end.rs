//! What a back end reads of the whole installation, and messages to many users at once.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::{Ask, OnFailure};
use switchboard_protocol::Limits;
use switchboard_store::grant::Scope;
use switchboard_store::keys::NewKey;

use crate::keys::{for_shop_users, key_with};
use crate::support::{Application, Cluster, RawSocket, Server, eventually};

/// A key with a scope.
fn key_for(server: &Server, scope: Scope) -> String {
    key_with(server, scope.as_str(), |key| key.with_scopes([scope]))
}

/// Reads all pages of a list, and returns the values of a field.
async fn all_of(server: &Server, key: &str, call: &str, query: Value, field: &str) -> Vec<String> {
    let (mut query, mut found) = (query, Vec::new());
    for _ in 0..100 {
        let page = server.posts_as(key, call, query.clone()).await.ok();
        let items = page["users"].as_array().or_else(|| page["rooms"].as_array()).expect("a list");
        found.extend(items.iter().map(|item| item[field].as_str().expect("an id").to_owned()));
        assert!(items.windows(2).all(|two| two[0]["number"].as_u64() < two[1]["number"].as_u64()), "{page}");
        if page["more"] == false {
            return found;
        }
        query["after"] = page["next"].clone();
    }
    panic!("the list does not end");
}

/// Makes these users known.
async fn knows(server: &Server, key: &str, users: impl IntoIterator<Item = String>) {
    let profiles: Vec<_> =
        users.into_iter().map(|user| json!({"user": user, "name": format!("Name of {user}")})).collect();
    for some in profiles.chunks(1_000) {
        server.posts_as(key, "profiles", json!({ "profiles": some })).await.ok();
    }
}

#[tokio::test]
async fn users_are_listed_by_number_page_by_page_with_filters() {
    let server = Server::start_with_auth().await;
    let key = key_for(&server, Scope::People);
    knows(&server, &key, (0..25).map(|n| format!("usr_{n:02}")).chain(["shop-1".to_owned()])).await;
    let gone = json!({"profiles": [{"user": "usr_03", "active": false}]});
    server.posts_as(&key, "profiles", gone).await.ok();
    let first = server.posts_as(&key, "list_users", json!({"limit": 2})).await.ok();
    assert_eq!(first["type"], "ok");
    assert_eq!(first["users"][0]["user"], "usr_00");
    assert_eq!(first["users"][0]["name"], "Name of usr_00");
    assert_eq!(first["users"][0]["active"], true);
    assert_eq!((first["users"].as_array().map(Vec::len), &first["more"]), (Some(2), &json!(true)));
    let all = all_of(&server, &key, "list_users", json!({"limit": 4}), "user").await;
    assert_eq!(all.len(), 26);
    for (query, wanted) in [
        (json!({"match": "shop-*"}), vec!["shop-1"]),
        (json!({"match": "usr_0?"}), vec![]),
        (json!({"active": false}), vec!["usr_03"]),
        (
            json!({"match": "*_2*", "active": true, "limit": 2}),
            vec!["usr_20", "usr_21", "usr_22", "usr_23", "usr_24"],
        ),
    ] {
        if query["match"] == "usr_0?" {
            let problem = server.posts_as(&key, "list_users", query).await.problem();
            assert_eq!(
                (problem["code"].as_str(), problem["field"].as_str()),
                (Some("bad_field"), Some("match"))
            );
            continue;
        }
        assert_eq!(all_of(&server, &key, "list_users", query.clone(), "user").await, wanted, "{query}");
    }
    let past = server.posts_as(&key, "list_users", json!({"after": u64::MAX >> 11})).await.ok();
    assert_eq!((&past["users"], &past["more"]), (&json!([]), &json!(false)));
    let shop = key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::People])));
    assert_eq!(all_of(&server, &shop, "list_users", json!({}), "user").await, ["shop-1"]);
    assert_eq!(all_of(&server, &shop, "list_users", json!({"match": "usr*"}), "user").await, [""; 0]);
}

#[tokio::test]
async fn a_call_reads_at_most_ten_thousand_rows_so_a_page_may_be_empty_with_more() {
    let server = Server::start_with_auth().await;
    let key = key_for(&server, Scope::People);
    knows(&server, &key, (0..10_500).map(|n| format!("usr_{n:05}"))).await;
    knows(&server, &key, ["zoe".to_owned()]).await;
    let page = server.posts_as(&key, "list_users", json!({"match": "z*"})).await.ok();
    assert_eq!((&page["users"], &page["more"]), (&json!([]), &json!(true)));
    assert!(page["next"].as_u64().is_some_and(|next| next >= 10_000), "{page}");
    let page = server.posts_as(&key, "list_users", json!({"match": "z*", "after": page["next"]})).await.ok();
    assert_eq!((&page["users"][0]["user"], &page["more"]), (&json!("zoe"), &json!(false)));
}

#[tokio::test]
async fn a_page_of_users_ends_at_page_bytes() {
    let server = Server::start_with_auth_and(|config| {
        config.limits = Limits { page_bytes: 20_000, ..config.limits.clone() };
    })
    .await;
    let key = key_for(&server, Scope::People);
    let big = json!({"note": "x".repeat(3_000)});
    let profiles: Vec<_> = (0..20).map(|n| json!({"user": format!("usr_{n}"), "data": big})).collect();
    server.posts_as(&key, "profiles", json!({ "profiles": profiles })).await.ok();
    let page = server.posts_as(&key, "list_users", json!({"limit": 100})).await;
    assert!(page.text.len() < 25_000, "{}", page.text.len());
    assert_eq!(page.ok()["more"], true);
    assert_eq!(all_of(&server, &key, "list_users", json!({"limit": 100}), "user").await.len(), 20);
}

#[tokio::test]
async fn rooms_are_listed_with_filters_and_a_pattern_shows_only_rooms_with_such_a_member() {
    let server = Server::start_with_auth().await;
    let (act, key) = (key_for(&server, Scope::Act), key_for(&server, Scope::People));
    for (room, public, members) in [
        ("support-1", false, json!(["shop-1"])),
        ("support-2", true, json!(["bob"])),
        ("garden", true, json!(["shop-2", "bob"])),
    ] {
        let room =
            json!({"as": "alice", "room": room, "title": "Title", "public": public, "members": members});
        server.posts_as(&act, "create", room).await.ok();
    }
    server.posts_as(&act, "send", json!({"as": "alice", "to": "@bob", "text": "hi"})).await.ok();
    let first = server.posts_as(&key, "list_rooms", json!({})).await.ok();
    let room = &first["rooms"][0];
    assert_eq!(
        (&room["conversation"], &room["title"], &room["members"]),
        (&json!("#support-1"), &json!("Title"), &json!(2))
    );
    assert!(room["head"].as_u64() == Some(1) && room["at"].is_string() && room["public"] == false, "{room}");
    for (query, wanted) in [
        (json!({}), vec!["#support-1", "#support-2", "#garden"]),
        (json!({"limit": 1}), vec!["#support-1", "#support-2", "#garden"]),
        (json!({"match": "#support-*"}), vec!["#support-1", "#support-2"]),
        (json!({"public": true}), vec!["#support-2", "#garden"]),
        (json!({"member": "bob", "limit": 1}), vec!["#support-2", "#garden"]),
        (json!({"member": "bob", "match": "#g*"}), vec!["#garden"]),
        (json!({"member": "nobody"}), vec![]),
    ] {
        assert_eq!(
            all_of(&server, &key, "list_rooms", query.clone(), "conversation").await,
            wanted,
            "{query}"
        );
    }
    let shop = key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::People])));
    assert_eq!(
        all_of(&server, &shop, "list_rooms", json!({}), "conversation").await,
        ["#support-1", "#garden"]
    );
    assert_eq!(
        all_of(&server, &shop, "list_rooms", json!({"member": "shop-2"}), "conversation").await,
        ["#garden"]
    );
    assert_eq!(server.posts_as(&shop, "list_rooms", json!({"member": "bob"})).await.code(), "forbidden");
    server.posts_as(&act, "leave", json!({"as": "shop-2", "conversation": "#garden"})).await.ok();
    assert_eq!(all_of(&server, &shop, "list_rooms", json!({}), "conversation").await, ["#support-1"]);
    for wrong in
        [json!({"match": "support-*"}), json!({"member": "@bob"}), json!({"after": -1}), json!({"as": "bob"})]
    {
        assert_eq!(server.posts_as(&key, "list_rooms", wrong.clone()).await.code(), "bad_field", "{wrong}");
    }
}

#[tokio::test]
async fn unread_counts_come_for_many_users_in_the_order_asked() {
    let server = Server::start_with_auth().await;
    let (act, key) = (key_for(&server, Scope::Act), key_for(&server, Scope::People));
    for (from, to) in [("alice", "@bob"), ("alice", "@bob"), ("carol", "@bob"), ("bob", "@dan")] {
        server.posts_as(&act, "send", json!({"as": from, "to": to, "text": "hi"})).await.ok();
    }
    let carol = server.connects("carol").await;
    let dan = server.connects("dan").await;
    drop(dan);
    let users = json!({"users": ["nobody", "bob", "carol", "dan", "bob"]});
    let counts = eventually("dan is offline", || async {
        let counts = server.posts_as(&key, "unread", users.clone()).await.ok();
        counts["users"][3]["last_seen"].is_string().then_some(counts)
    })
    .await;
    let bob = json!({"user": "bob", "messages": 3, "conversations": 2, "online": false, "more": false});
    assert_eq!(
        counts["users"][0],
        json!({"user": "nobody", "messages": 0, "conversations": 0, "online": false, "more": false})
    );
    assert_eq!((&counts["users"][1], &counts["users"][4]), (&bob, &bob));
    assert_eq!(
        counts["users"][2],
        json!({"user": "carol", "messages": 0, "conversations": 0, "online": true, "more": false})
    );
    assert_eq!((&counts["users"][3]["messages"], &counts["users"][3]["online"]), (&json!(1), &json!(false)));
    drop(carol);
    let shop = key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::People])));
    assert_eq!(
        server.posts_as(&shop, "unread", json!({"users": ["shop-1", "bob"]})).await.code(),
        "forbidden"
    );
    assert_eq!(server.posts_as(&shop, "unread", json!({"users": ["shop-1"]})).await.status, 200);
}

#[tokio::test]
async fn unread_counts_over_the_latest_two_hundred_conversations() {
    let server = Server::start_with_auth().await;
    let (act, key) = (key_for(&server, Scope::Act), key_for(&server, Scope::People));
    for n in 0..205 {
        let hi = json!({"as": format!("usr_{n}"), "to": "@shop", "text": "hi"});
        server.posts_as(&act, "send", hi).await.ok();
    }
    let counts = server.posts_as(&key, "unread", json!({"users": ["shop"]})).await.ok();
    let shop = &counts["users"][0];
    assert_eq!(
        (&shop["messages"], &shop["conversations"], &shop["more"]),
        (&json!(200), &json!(200), &json!(true))
    );
    let many: Vec<_> = (0..1_001).map(|n| format!("user-with-a-long-name-{n:040}")).collect();
    let refused = server.posts_as(&key, "unread", json!({ "users": many })).await.problem();
    assert_eq!((refused["code"].as_str(), refused["field"].as_str()), (Some("too_large"), Some("users")));
    let body = json!({"users": many[..1_000]});
    assert!(body.to_string().len() > 32 * 1024, "more than a frame");
    assert_eq!(
        server.posts_as(&key, "unread", body).await.ok()["users"].as_array().map(Vec::len),
        Some(1_000)
    );
}

#[tokio::test]
async fn the_key_of_a_large_call_is_checked_before_its_body_is_read() {
    let server = Server::start_with_auth().await;
    let feed = key_for(&server, Scope::Feed);
    for call in ["unread", "send_many"] {
        for (key, status) in [("sbk_wrong", 401), (feed.as_str(), 403)] {
            let mut socket = RawSocket::connect(server.address()).await;
            let head = format!(
                "POST /v1/{call} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n"
            );
            socket.writes(format!("{head}authorization: Bearer {key}\r\n\r\n")).await;
            let answer = socket.read_head().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{call}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_user_on_another_node_is_online() {
    let cluster = Cluster::start(2).await;
    let bob = cluster.node(1).connects("bob").await;
    eventually("the first node sees bob on the second", || async {
        let counts = cluster.node(0).posts("unread", json!({"users": ["bob"]})).await.ok();
        (counts["users"][0]["online"] == true).then_some(())
    })
    .await;
    drop(bob);
}

/// The body of a `send_many` from the shop.
fn sale(users: &[&str]) -> Value {
    json!({"as": "shop", "users": users, "key": "sale-1", "text": "Sale!", "data": {"code": "S1"}})
}

#[tokio::test]
async fn one_call_sends_to_many_users_and_a_repeated_call_sends_only_what_is_missing() {
    let server = Server::start_with_auth().await;
    let key = key_for(&server, Scope::Act);
    let mut bob = server.connects("bob").await;
    let first = server.posts_as(&key, "send_many", sale(&["bob", "carol"])).await.ok();
    assert_eq!(first["type"], "ok");
    let bobs = &first["results"][0];
    assert_eq!(
        (&bobs["user"], &bobs["conversation"], &bobs["seq"]),
        (&json!("bob"), &json!("@bob:shop"), &json!(1))
    );
    assert!(bobs["at"].is_string() && bobs.get("duplicate").is_none(), "{bobs}");
    let message = bob.receives_message("Sale!").await;
    assert_eq!(serde_json::to_value(&message).expect("JSON")["key"], "sale-1:bob");
    let again = server.posts_as(&key, "send_many", sale(&["bob", "dan", "dan", "carol"])).await.ok();
    let results = again["results"].as_array().expect("results");
    let duplicates: Vec<_> = results.iter().map(|one| one["duplicate"] == true).collect();
    assert_eq!(duplicates, [true, false, true, true]);
    assert_eq!(results[0]["at"], bobs["at"]);
    bob.receives_nothing().await;
    let many: Vec<_> = (0..1_000).map(|n| format!("usr_{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let answer = server.posts_as(&key, "send_many", sale(&many)).await.ok();
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 1_000);
    assert!(results.iter().zip(&many).all(|(one, user)| one["user"] == *user && one["seq"] == 1), "{answer}");
}

#[tokio::test]
async fn a_bad_send_many_sends_nothing_and_a_refused_recipient_stops_no_other() {
    let server = Server::start_with_auth().await;
    let key = key_for(&server, Scope::Act);
    let with = |field: &str, value: Value| {
        let mut body = sale(&["bob"]);
        body[field] = value;
        body
    };
    let many: Vec<_> = (0..1_001).map(|n| format!("u{n}")).collect();
    for (body, code, field) in [
        (with("key", json!("k".repeat(64))), "too_large", "key"),
        (with("key", Value::Null), "bad_field", "key"),
        (with("text", json!("")), "too_large", "data"),
        (with("text", json!("x".repeat(20_000))), "too_large", "text"),
        (with("users", json!(many)), "too_large", "users"),
        (with("users", json!(["bob", "not an id"])), "bad_field", "users[1]"),
        (with("as", json!("@shop")), "bad_field", "as"),
        (with("reply_to", json!(1)), "bad_field", "reply_to"),
    ] {
        let mut body = body;
        if field == "data" {
            body["data"] = json!({"x": "y".repeat(20_000)});
        }
        let problem = server.posts_as(&key, "send_many", body).await.problem();
        assert_eq!(
            (problem["code"].as_str(), problem["field"].as_str()),
            (Some(code), Some(field)),
            "{problem}"
        );
    }
    let shop = key_with(&server, "shop", for_shop_users);
    assert_eq!(server.posts_as(&shop, "send_many", sale(&["bob"])).await.code(), "forbidden");
    let mut allowed = sale(&["bob"]);
    allowed["as"] = json!("shop-1");
    assert_eq!(server.posts_as(&shop, "send_many", allowed).await.ok()["results"][0]["seq"], 1);
    let none = server.posts_as(&key, "send_many", sale(&[])).await.ok();
    assert_eq!(none["results"], json!([]));
}

#[tokio::test]
async fn the_application_is_asked_about_each_message_unless_the_key_says_otherwise() {
    let mut application = Application::start().await;
    let hook = application.hook(&[(Ask::Message, OnFailure::Refuse)]);
    let server = Server::start_with_auth_and(|config| config.hooks = Some(hook)).await;
    let key = key_for(&server, Scope::Act);
    let sends = server.posts_as(&key, "send_many", sale(&["bob", "carol"]));
    let answers = async {
        for _ in 0..2 {
            let question = application.is_asked().await;
            if question.body.to_string().contains("@bob:shop") {
                question.refuses("not to bob");
            } else {
                question.accepts();
            }
        }
    };
    let (sent, ()) = tokio::join!(sends, answers);
    let sent = sent.ok();
    assert_eq!(sent["results"][0]["error"]["code"], "refused");
    assert_eq!(sent["results"][0]["error"]["message"], "not to bob");
    assert_eq!(sent["results"][1]["seq"], 1);
    let unasked = key_with(&server, "unasked", |key| NewKey { unasked: true, ..key });
    let sent = tokio::time::timeout(
        Duration::from_secs(30),
        server.posts_as(&unasked, "send_many", sale(&["bob", "carol"])),
    );
    let sent = sent.await.expect("nobody is asked").ok();
    assert_eq!((&sent["results"][0]["seq"], &sent["results"][1]["duplicate"]), (&json!(1), &json!(true)));
}
