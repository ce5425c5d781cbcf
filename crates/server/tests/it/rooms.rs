//! Rooms: joining, roles, and the events that members receive.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use switchboard::config::UnknownUsers;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ErrorCode, EventBody, Role, Seq, Timestamp};
use switchboard_store::clock::Clock;

use crate::support::{Person, Server, user};

async fn member_roles(person: &mut Person, room: &str) -> Vec<(String, Role)> {
    person.members(room).await.into_iter().map(|member| (member.user.to_string(), member.role)).collect()
}

#[tokio::test]
async fn a_room_is_created_once_and_its_creator_is_the_admin() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let create = json!({"room": "ops", "title": "Ops", "members": ["bob", "carol", "bob", "alice"]});
    let first = alice.stores("create", create.clone()).await;
    assert_eq!((first.conversation.as_str(), first.seq, first.duplicate), ("#ops", 1, false));
    let event = bob.receives_event().await;
    let EventBody::Create { title, public, members } = event.body else { panic!("{event:?}") };
    assert_eq!(title.expect("a title").as_str(), "Ops");
    assert_eq!((public, members), (false, vec![user("bob"), user("carol")]));

    let again = alice.stores("create", create.clone()).await;
    assert_eq!((again.seq, again.duplicate), (1, true), "a retry");
    for other in [json!({"room": "#ops", "title": "Other"}), json!({"room": "ops"})] {
        assert_eq!(alice.is_refused("create", other).await, ErrorCode::AlreadyExists);
    }
    assert_eq!(bob.is_refused("create", create).await, ErrorCode::AlreadyExists);
    let expected = [("alice", Role::Admin), ("bob", Role::Member), ("carol", Role::Member)];
    assert_eq!(member_roles(&mut bob, "#ops").await, expected.map(|(name, role)| (name.to_owned(), role)));
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_room_without_an_id_gets_a_generated_one() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let one = alice.stores("create", json!({})).await.conversation;
    let other = alice.stores("create", json!({})).await.conversation;
    assert_ne!(one, other);
    alice.says(&one, "hi").await;
    assert_eq!(alice.summary(&one).await.head, Seq(2));
}

#[tokio::test]
async fn any_user_may_join_and_leave_a_public_room() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("general", &[]).await;
    alice.says("#general", "before you came").await;
    let here = json!({"conversation": "#general"});
    let joined = bob.stores("join", here.clone()).await;
    assert_eq!((joined.seq, joined.duplicate), (3, false));
    assert_eq!(alice.receives_event().await.body, EventBody::Join { role: None, until: None });
    let again = bob.stores("join", here.clone()).await;
    assert_eq!((again.seq, again.duplicate), (3, true));

    let summary = bob.summary("#general").await;
    assert_eq!((summary.read, summary.unread), (Seq(3), 0), "earlier messages are not unread");
    assert_eq!(bob.log("#general").await.len(), 3, "earlier messages can be read");

    assert_eq!(bob.stores("leave", here.clone()).await.seq, 4);
    assert_eq!(alice.receives_event().await.body, EventBody::Leave {});
    let again = bob.stores("leave", here.clone()).await;
    assert_eq!((again.seq, again.duplicate), (4, true));
    assert_eq!(bob.stores("join", here).await.seq, 5, "bob joins again");
    assert_eq!(alice.receives_event().await.body, EventBody::Join { role: None, until: None });
    alice.says("#general", "welcome back").await;
    bob.receives_message("welcome back").await;
}

#[tokio::test]
async fn a_private_room_is_not_found_without_an_invitation() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    alice.makes_room("ops", &["carol"]).await;
    carol.receives_event().await;
    let here = json!({"conversation": "#ops"});
    let nowhere = json!({"conversation": "#nowhere"});
    for command in ["join", "leave", "sync", "history", "members", "typing"] {
        let hidden = bob.tries(command, here.clone()).await.expect_err(command);
        let missing = bob.tries(command, nowhere.clone()).await.expect_err(command);
        assert_eq!(hidden.code, ErrorCode::NotFound, "{command}");
        assert_eq!((hidden.code, hidden.message), (missing.code, missing.message), "{command}");
    }
    let invite = json!({"conversation": "#ops", "user": "bob"});
    assert_eq!(
        carol.is_refused("invite", invite.clone()).await,
        ErrorCode::Forbidden,
        "a member may not invite"
    );
    assert_eq!(alice.stores("invite", invite.clone()).await.seq, 2);
    for person in [&mut bob, &mut carol] {
        let event = person.receives_event().await;
        assert_eq!(event.body, EventBody::Invite { user: user("bob"), role: Role::Member, until: None });
    }
    let again = alice.stores("invite", invite).await;
    assert_eq!((again.seq, again.duplicate), (2, true));
    bob.says("#ops", "thanks").await;
    carol.receives_message("thanks").await;
}

#[tokio::test]
async fn in_a_public_room_members_may_invite_members() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_public_room("general", &["bob", "carol"]).await;
    alice.does("role", json!({"conversation": "#general", "user": "carol", "role": "reader"})).await;
    let mut bob = server.connects("bob").await;
    let mut carol = server.connects("carol").await;
    let invite = |role: &str| json!({"conversation": "#general", "user": "dave", "role": role});
    assert_eq!(bob.is_refused("invite", invite("admin")).await, ErrorCode::Forbidden);
    assert_eq!(carol.is_refused("invite", invite("member")).await, ErrorCode::Forbidden);
    bob.does("invite", invite("member")).await;
}

#[tokio::test]
async fn a_reader_reads_and_does_not_write() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("news", &["bob"]).await;
    bob.says("#news", "while I may").await;
    let role = |role: &str| json!({"conversation": "#news", "user": "bob", "role": role});
    alice.does("role", role("reader")).await;
    for (command, fields) in [
        ("send", json!({"to": "#news", "text": "hi"})),
        ("edit", json!({"conversation": "#news", "target": 2, "text": "ho"})),
        ("delete", json!({"conversation": "#news", "target": 2})),
        ("react", json!({"conversation": "#news", "target": 2, "emoji": "👍"})),
        ("typing", json!({"conversation": "#news"})),
        ("invite", json!({"conversation": "#news", "user": "carol"})),
        ("rename", json!({"conversation": "#news", "title": "Mine"})),
        ("remove", json!({"conversation": "#news", "user": "alice"})),
        ("role", role("admin")),
    ] {
        assert_eq!(bob.is_refused(command, fields).await, ErrorCode::Forbidden, "{command}");
    }
    assert_eq!(bob.log("#news").await.len(), 3, "no refused command was stored");
    bob.does("read", json!({"conversation": "#news", "upto": 3})).await;
    alice.does("role", role("member")).await;
    bob.says("#news", "again").await;
}

#[tokio::test]
async fn only_an_admin_changes_the_room() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("ops", &["bob", "carol"]).await;
    for (command, fields) in [
        ("rename", json!({"conversation": "#ops", "title": "Mine"})),
        ("remove", json!({"conversation": "#ops", "user": "carol"})),
        ("role", json!({"conversation": "#ops", "user": "bob", "role": "admin"})),
    ] {
        assert_eq!(bob.is_refused(command, fields).await, ErrorCode::Forbidden, "{command}");
    }
    alice.does("rename", json!({"conversation": "#ops", "title": "Operations"})).await;
    let title = bob.summary("#ops").await.title.expect("a title");
    assert_eq!(title.as_str(), "Operations");
    let stranger = json!({"conversation": "#ops", "user": "dave", "role": "admin"});
    assert_eq!(alice.is_refused("role", stranger.clone()).await, ErrorCode::NotFound);
    assert_eq!(alice.is_refused("remove", without_role(&stranger)).await, ErrorCode::NotFound);
    let oneself = json!({"conversation": "#ops", "user": "alice"});
    assert_eq!(alice.is_refused("remove", oneself).await, ErrorCode::BadField);
}

/// The fields of a `role` command without `role`, as the command `remove` needs them.
fn without_role(fields: &serde_json::Value) -> serde_json::Value {
    json!({"conversation": fields["conversation"], "user": fields["user"]})
}

#[tokio::test]
async fn a_room_keeps_an_admin_while_it_has_members() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("ops", &["bob"]).await;
    let here = json!({"conversation": "#ops"});
    let role = |name: &str, role: &str| json!({"conversation": "#ops", "user": name, "role": role});
    assert_eq!(alice.is_refused("leave", here.clone()).await, ErrorCode::Forbidden);
    assert_eq!(alice.is_refused("role", role("alice", "member")).await, ErrorCode::Forbidden);
    alice.does("role", role("bob", "admin")).await;
    alice.does("leave", here.clone()).await;
    let mut bob = server.connects("bob").await;
    assert_eq!(member_roles(&mut bob, "#ops").await, [("bob".to_owned(), Role::Admin)]);
    assert_eq!(
        bob.is_refused("role", role("bob", "reader")).await,
        ErrorCode::Forbidden,
        "also as the only member"
    );
    bob.does("leave", here).await;
}

#[tokio::test]
async fn the_first_user_who_joins_an_empty_room_is_its_admin() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_public_room("general", &[]).await;
    let here = json!({"conversation": "#general"});
    alice.does("leave", here.clone()).await;
    bob.does("join", here.clone()).await;
    alice.does("join", here).await;
    let expected = [("alice".to_owned(), Role::Member), ("bob".to_owned(), Role::Admin)];
    assert_eq!(member_roles(&mut alice, "#general").await, expected);
}

#[tokio::test]
async fn a_direct_conversation_always_has_its_two_members() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    for (command, fields) in [
        ("leave", json!({"conversation": "@bob"})),
        ("join", json!({"conversation": "@bob"})),
        ("invite", json!({"conversation": "@bob", "user": "carol"})),
        ("remove", json!({"conversation": "@bob", "user": "bob"})),
        ("rename", json!({"conversation": "@bob", "title": "Us"})),
        ("role", json!({"conversation": "@bob", "user": "bob", "role": "reader"})),
    ] {
        assert_eq!(alice.is_refused(command, fields).await, ErrorCode::Forbidden, "{command}");
    }
    assert_eq!(alice.log("@bob").await.len(), 1);
}

#[tokio::test]
async fn members_are_paged() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let others: Vec<String> = (10..35).map(|n| format!("user{n}")).collect();
    alice.makes_room("big", &others.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (mut names, mut more) = (Vec::<String>::new(), true);
    while more {
        let after = names.last();
        let mut fields = json!({"conversation": "#big", "limit": 10});
        if let Some(after) = after {
            fields["after"] = json!(after);
        }
        let OkBody::Members { members, more: again, .. } = alice.does("members", fields).await else {
            panic!("no members")
        };
        assert!(members.len() == 10 || !again);
        names.extend(members.into_iter().map(|member| member.user.to_string()));
        more = again;
    }
    let expected: Vec<_> = std::iter::once("alice".to_owned()).chain(others).collect();
    assert_eq!(names, expected);
}

/// The ids of all conversations of the user, requested in pages of ten.
async fn conversations_by_page(person: &mut Person) -> Vec<String> {
    let mut names = Vec::<String>::new();
    loop {
        let mut fields = json!({"limit": 10});
        if let Some(last) = names.last() {
            fields["before"] = json!(last);
        }
        let page = person.does("conversations", fields).await;
        let OkBody::Conversations { conversations, more } = page else { panic!("{page:?}") };
        assert!(conversations.len() == 10 || !more);
        names.extend(conversations.into_iter().map(|summary| summary.conversation.to_string()));
        if !more {
            return names;
        }
    }
}

#[tokio::test]
async fn conversations_are_paged_by_latest_activity() {
    // Each read of this clock advances it by a millisecond, so that no two events have the same time.
    let time = AtomicI64::new(1_800_000_000_000);
    let clock = Clock::from_fn(move || Timestamp::from_millis(time.fetch_add(1, Ordering::Relaxed)));
    let server = Server::start_with_clock(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    for n in 0..25 {
        alice.says(&format!("@user{n:02}"), "hi").await;
    }
    alice.says("@user07", "once more").await;
    let mut expected: Vec<_> =
        (0..25).rev().filter(|n| *n != 7).map(|n| format!("@alice:user{n:02}")).collect();
    expected.insert(0, "@alice:user07".to_owned());
    assert_eq!(conversations_by_page(&mut alice).await, expected);
    assert!(server.connects("nobody-yet").await.conversations().await.is_empty());
}

#[tokio::test]
async fn conversations_with_the_same_time_are_each_listed_once() {
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_800_000_000_000));
    let server = Server::start_with_clock(clock, |_| {}).await;
    let mut alice = server.connects("alice").await;
    let mut expected: Vec<_> = (0..25).map(|n| format!("@alice:user{n:02}")).collect();
    for name in &expected {
        alice.says(name, "hi").await;
    }
    let mut names = conversations_by_page(&mut alice).await;
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn without_unknown_users_a_message_to_an_unknown_id_is_refused() {
    let server = Server::start_with(|config| config.unknown_users = UnknownUsers::Refuse).await;
    let mut alice = server.connects("alice").await;
    let hi = json!({"to": "@bob", "text": "hi"});
    assert_eq!(alice.is_refused("send", hi.clone()).await, ErrorCode::NotFound);
    let room = json!({"room": "ops", "members": ["bob"]});
    assert_eq!(alice.is_refused("create", room.clone()).await, ErrorCode::NotFound);
    let mut bob = server.connects("bob").await;
    alice.does("send", hi).await;
    bob.receives_message("hi").await;
    alice.does("create", room).await;
    let stranger = json!({"conversation": "#ops", "user": "carol"});
    assert_eq!(alice.is_refused("invite", stranger).await, ErrorCode::NotFound);
}
