//! The exact text of the frames, because clients of other authors depend on it.

use std::time::Duration;

use serde_json::json;
use switchboard_protocol::Limits;

use crate::support::{Server, mask_times};

#[tokio::test]
async fn hello_is_answered_with_welcome_and_the_missed_events() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let room = json!({"room": "general", "title": "General", "public": true, "members": ["bob"]});
    alice.does("create", room).await;
    alice.says_with_key("#general", "k2", "one").await;
    alice.says_with_key("#general", "k3", "two").await;

    let mut bob = server.open_socket().await;
    bob.says(r##"{"type":"hello","user":"bob","device":"laptop","cursors":{"#general":2}}"##).await;
    let welcome = bob.receives_text_with_masked_times().await;
    let (before, connection) = welcome.split_once(r#""connection":""#).expect("a connection");
    let (connection, after) = connection.split_once('"').expect("a name in quotes");
    assert_eq!(before, r#"{"type":"welcome","user":"bob","#);
    assert!(!connection.is_empty());
    let limits = serde_json::to_string(&Limits::default().without_rates()).expect("json");
    let version = env!("CARGO_PKG_VERSION");
    let conversation = concat!(
        r##"{"conversation":"#general","title":"General","public":true,"role":"member","members":2,"##,
        r##""head":3,"at":"T","read":1,"received":1,"unread":2,"last":{"type":"message","##,
        r##""conversation":"#general","seq":3,"from":"alice","at":"T","key":"k3","text":"two"}}"##
    );
    let unread = r#"{"messages":2,"conversations":1,"more":false}"#;
    let permissions = concat!(
        r#"{"create_rooms":true,"public_rooms":true,"invite":"members","contact":["all"],"#,
        r#""others":"refuse","directory":"shared"}"#
    );
    let expected = format!(
        r#","server":"switchboard/{version}","features":["numbers","profiles","token","permissions","bans","slow","block","report","hold"],"limits":{limits},"conversations":[{conversation}],"more":false,"unread":{unread},"permissions":{permissions}}}"#
    );
    assert_eq!(after, expected);
    assert_eq!(
        bob.receives_text_with_masked_times().await,
        r##"{"type":"message","conversation":"#general","seq":3,"from":"alice","at":"T","key":"k3","text":"two"}"##
    );
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_message_and_its_ok_have_the_documented_form() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    let mut bob = server.open_socket_as("bob").await;
    alice.says(r#"{"type":"send","id":1,"to":"@bob","key":"a1","text":"hi"}"#).await;
    assert_eq!(
        alice.receives_text_with_masked_times().await,
        r#"{"type":"ok","id":1,"conversation":"@alice:bob","seq":1,"at":"T"}"#
    );
    assert_eq!(
        bob.receives_text_with_masked_times().await,
        r#"{"type":"message","conversation":"@alice:bob","seq":1,"from":"alice","at":"T","key":"a1","text":"hi"}"#
    );
    bob.says(
        r#"{"type":"send","to":"@alice","key":"b \"1\"","data":{"b":[1,null],"a":"é"},"text":"<b>\r\n","reply_to":1}"#,
    )
    .await;
    assert_eq!(
        bob.receives_text_with_masked_times().await,
        r#"{"type":"ok","conversation":"@alice:bob","seq":2,"at":"T"}"#,
        "without an id there is none in the answer"
    );
    assert_eq!(
        alice.receives_text_with_masked_times().await,
        r#"{"type":"message","conversation":"@alice:bob","seq":2,"from":"bob","at":"T","key":"b \"1\"","text":"<b>\r\n","data":{"a":"é","b":[1,null]},"reply_to":1}"#
    );
}

#[tokio::test]
async fn a_retry_is_a_duplicate_and_another_body_is_a_key_conflict() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    let send = |id: &str, text: &str| {
        format!(r#"{{"type":"send","id":"{id}","to":"@bob","key":"a1","text":"{text}"}}"#)
    };
    alice.says(&send("first", "hi")).await;
    let first = alice.receives_text().await;
    alice.says(&send("again", "hi")).await;
    let again = first.replace("first", "again").replace('}', r#","duplicate":true}"#);
    assert_eq!(alice.receives_text().await, again, "the same seq and time");
    alice.says(&send("other", "ho")).await;
    assert_eq!(
        alice.receives_text().await,
        r#"{"type":"error","id":"other","code":"key_conflict","message":"this `key` was used for another message; a new message needs a new key","retryable":false}"#
    );
}

#[tokio::test]
async fn a_cursor_too_far_behind_is_answered_with_gap() {
    let server = Server::start_with(|config| config.limits.replay = 3).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("general", &["bob"]).await;
    for n in 2..=9 {
        alice.says("#general", &n.to_string()).await;
    }
    let mut bob = server.open_socket().await;
    bob.says(r##"{"type":"hello","user":"bob","cursors":{"#general":5}}"##).await;
    bob.receives_text().await;
    assert_eq!(bob.receives_text().await, r##"{"type":"gap","conversation":"#general","after":5,"head":9}"##);
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_page_of_history_has_the_head_that_it_includes() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    let mut bob = server.open_socket_as("bob").await;
    alice.asks(r#"{"type":"send","to":"@bob","key":"k1","text":"one"}"#).await;
    alice.asks(r#"{"type":"edit","conversation":"@bob","target":1,"text":"ONE"}"#).await;
    bob.says(r#"{"type":"history","id":1,"conversation":"@alice"}"#).await;
    for seq in 1..=2 {
        assert_eq!(bob.receives_json().await["seq"], seq);
    }
    assert_eq!(
        bob.receives_text_with_masked_times().await,
        concat!(
            r#"{"type":"ok","id":1,"conversation":"@alice:bob","messages":[{"type":"message","#,
            r#""conversation":"@alice:bob","seq":1,"from":"alice","at":"T","key":"k1","text":"ONE","#,
            r#""edited":{"seq":2,"at":"T"}}],"head":2,"more":false}"#
        )
    );
    // The page must not include events that were stored after it was requested.
    alice.asks(r#"{"type":"react","conversation":"@bob","target":1,"emoji":"👍"}"#).await;
    assert_eq!(bob.receives_json().await["seq"], 3);
}

#[tokio::test]
async fn a_ping_is_answered_with_its_id() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    for (ping, pong) in [
        (r#"{"type":"ping","id":7}"#, r#"{"type":"pong","id":7}"#),
        (r#"{"id":"x","type":"ping"}"#, r#"{"type":"pong","id":"x"}"#),
        (r#"{"type":"ping"}"#, r#"{"type":"pong"}"#),
    ] {
        alice.says(ping).await;
        assert_eq!(alice.receives_text().await, pong);
    }
}

#[tokio::test]
async fn an_error_has_the_id_of_its_command_and_the_field() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    for (frame, error) in [
        (
            r##"{"type":"send","id":1,"to":"#nowhere","text":"hi"}"##,
            r#"{"type":"error","id":1,"code":"not_found","message":"there is no such thing, or it is not yours to see","retryable":false}"#,
        ),
        (
            r#"{"type":"send","id":"two","to":"@bob"}"#,
            r#"{"type":"error","id":"two","code":"bad_field","message":"text: a message has a `text` that is not empty, or `data`, or both","retryable":false,"field":"text"}"#,
        ),
    ] {
        alice.says(frame).await;
        assert_eq!(alice.receives_text().await, error);
    }
}

#[tokio::test]
async fn signals_have_the_documented_form() {
    let server = Server::start_with(|config| config.presence_grace = Duration::from_millis(50)).await;
    let mut alice = server.open_socket_as("alice").await;
    let mut bob = server.open_socket_as("bob").await;
    alice.asks(r#"{"type":"send","to":"@bob","text":"hi"}"#).await;
    bob.receives_text().await;
    bob.asks(r#"{"type":"send","to":"@alice","text":"hello"}"#).await;
    alice.receives_text().await;
    for (frame, ok, signal) in [
        (
            r#"{"type":"received","id":1,"conversation":"@alice","upto":1}"#,
            r#"{"type":"ok","id":1,"conversation":"@alice:bob","upto":1}"#,
            r#"{"type":"received","conversation":"@alice:bob","user":"bob","upto":1}"#,
        ),
        (
            r#"{"type":"read","id":2,"conversation":"@alice:bob","upto":1}"#,
            r#"{"type":"ok","id":2,"conversation":"@alice:bob","upto":1}"#,
            r#"{"type":"read","conversation":"@alice:bob","user":"bob","upto":1}"#,
        ),
        (
            r#"{"type":"typing","id":3,"conversation":"@alice"}"#,
            r#"{"type":"ok","id":3}"#,
            r#"{"type":"typing","conversation":"@alice:bob","user":"bob"}"#,
        ),
    ] {
        bob.says(frame).await;
        assert_eq!(bob.receives_text().await, ok);
        assert_eq!(alice.receives_text().await, signal);
    }
    let watching = alice.asks(r#"{"type":"watch","id":4,"users":["bob","bob","stranger"]}"#).await;
    let mut frames = vec![watching.to_string(), alice.receives_text().await];
    frames.sort_unstable();
    assert_eq!(frames, [r#"{"id":4,"type":"ok"}"#, r#"{"type":"presence","user":"bob","online":true}"#]);
    drop(bob);
    let gone = alice.receives_text().await;
    let time = gone.strip_prefix(r#"{"type":"presence","user":"bob","online":false,"last_seen":""#);
    let time = time.and_then(|rest| rest.strip_suffix(r#""}"#)).expect(&gone);
    mask_times(&format!(r#""at":"{time}""#));
}

#[tokio::test]
async fn every_event_of_a_room_has_the_documented_fields() {
    let server = Server::start().await;
    let mut bob = server.open_socket_as("bob").await;
    let mut carol = server.open_socket_as("carol").await;
    let mut alice = server.open_socket_as("alice").await;
    let mut seq = 0;
    for (command, fields) in [
        (
            r#"{"type":"create","room":"ops","title":"Ops","public":true,"members":["bob"]}"#,
            r#""title":"Ops","public":true,"members":["bob"]"#,
        ),
        (r##"{"type":"send","to":"#ops","key":"k","text":"hi"}"##, r#""key":"k","text":"hi""#),
        (r##"{"type":"edit","conversation":"#ops","target":2,"text":"ho"}"##, r#""target":2,"text":"ho""#),
        (
            r##"{"type":"react","conversation":"#ops","target":2,"emoji":"👍"}"##,
            r#""target":2,"emoji":"👍","on":true"#,
        ),
        (r##"{"type":"delete","conversation":"#ops","target":2}"##, r#""target":2"#),
        (r##"{"type":"rename","conversation":"#ops","title":"Ops!"}"##, r#""title":"Ops!""#),
        (r##"{"type":"invite","conversation":"#ops","user":"dave"}"##, r#""user":"dave","role":"member""#),
        (
            r##"{"type":"role","conversation":"#ops","user":"dave","role":"reader"}"##,
            r#""user":"dave","role":"reader""#,
        ),
        (r##"{"type":"remove","conversation":"#ops","user":"dave"}"##, r#""user":"dave""#),
    ] {
        let ok = alice.asks(command).await;
        seq += 1;
        assert_eq!((&ok["type"], &ok["seq"]), (&json!("ok"), &json!(seq)), "{command}: {ok}");
        let name = command.split('"').nth(3).expect("a type");
        let name = if name == "send" { "message" } else { name };
        let frame = bob.receives_text_with_masked_times().await;
        let expected = format!(
            r##"{{"type":"{name}","conversation":"#ops","seq":{seq},"from":"alice","at":"T",{fields}}}"##
        );
        assert_eq!(frame, expected);
    }
    for command in ["join", "leave"] {
        carol.asks(&format!(r##"{{"type":"{command}","conversation":"#ops"}}"##)).await;
        seq += 1;
        let expected =
            format!(r##"{{"type":"{command}","conversation":"#ops","seq":{seq},"from":"carol","at":"T"}}"##);
        assert_eq!(bob.receives_text_with_masked_times().await, expected);
    }
}
