//! Permissions: whom a user may reach first, and what the users of a direct conversation learn of each other.

use std::sync::Arc;

use serde_json::{Value, json};
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{Inviters, Permissions, Seq};
use switchboard_store::origin::{Origin, UserOrigin};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Committed, Submission};
use tokio::sync::oneshot;

use super::{OpenStore, TestStore, change};
use crate::support::user;

impl TestStore {
    /// Submits a change of a user with these permissions, and waits for its outcome.
    async fn tries_with(
        &mut self,
        permissions: &Permissions,
        actor: &str,
        name: &str,
        fields: Value,
    ) -> Result<Committed, Refusal> {
        let permissions = Arc::new(permissions.clone());
        let origin = Origin::User(UserOrigin { reply: oneshot::channel().0, permissions });
        let submission = Submission { actor: user(actor), change: change(name, &fields), origin };
        self.store.submit(submission).expect("there is room");
        self.next_outcome().await
    }

    /// The permission that a refused change lacks.
    async fn lacks(
        &mut self,
        permissions: &Permissions,
        actor: &str,
        name: &str,
        fields: Value,
    ) -> &'static str {
        let sent = fields.to_string();
        match self.tries_with(permissions, actor, name, fields).await {
            Err(Refusal { permission: Some(permission), .. }) => permission,
            other => panic!("{actor} says {name} {sent}: {other:?}"),
        }
    }
}

fn contact(entries: &[&str]) -> Permissions {
    let contact = entries.iter().map(|&entry| entry.to_owned()).collect();
    Permissions { contact, ..Permissions::default() }
}

pub(super) async fn a_user_reaches_first_whom_the_permissions_name(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("cus_2", "@agent_1", "I exist").await;
    let customer = contact(&["agent_*", "bot"]);
    for to in ["@agent_1", "@agent_new", "@bot", "@cus_1"] {
        db.tries_with(&customer, "cus_1", "send", json!({"to": to, "text": "hi"})).await.expect(to);
    }
    let mut refusals = Vec::new();
    for to in ["@cus_2", "@nobody"] {
        let refused = db.tries_with(&customer, "cus_1", "send", json!({"to": to, "text": "hi"})).await;
        refusals.push(refused.expect_err(to));
    }
    assert_eq!(refusals[0], refusals[1], "it does not tell who exists");
    assert_eq!(refusals[0].permission, Some("contact"));
    let create = |room: &str, members: &[&str]| json!({"room": room, "members": members});
    db.tries_with(&customer, "cus_1", "create", create("a", &["agent_1", "bot"])).await.expect("a room");
    assert_eq!(db.lacks(&customer, "cus_1", "create", create("b", &["agent_1", "cus_2"])).await, "contact");
    db.stores("cus_1", "create", create("b", &[])).await;
    let invite = |user: &str| json!({"conversation": "#b", "user": user});
    db.tries_with(&customer, "cus_1", "invite", invite("agent_1")).await.expect("invited");
    for user in ["cus_2", "nobody"] {
        assert_eq!(db.lacks(&customer, "cus_1", "invite", invite(user)).await, "contact");
    }
    let none = Permissions { create_rooms: false, public_rooms: false, ..contact(&[]) };
    assert_eq!(db.lacks(&none, "cus_1", "create", create("c", &[])).await, "create_rooms");
    db.stores("agent_1", "create", json!({"room": "open", "public": true, "members": ["cus_1"]})).await;
    assert_eq!(db.lacks(&none, "cus_2", "join", json!({"conversation": "#open"})).await, "public_rooms");
    let private = Permissions { public_rooms: false, ..Permissions::default() };
    let public = json!({"room": "d", "public": true});
    assert_eq!(db.lacks(&private, "cus_1", "create", public).await, "public_rooms");
    db.tries_with(&private, "cus_1", "create", create("d", &[])).await.expect("a private room");
    let admins = Permissions { invite: Inviters::Admins, ..Permissions::default() };
    let open_to = json!({"conversation": "#open", "user": "agent_2"});
    assert_eq!(db.lacks(&admins, "cus_1", "invite", open_to.clone()).await, "invite");
    db.tries_with(&admins, "agent_1", "invite", open_to).await.expect("an admin");
}

pub(super) async fn a_user_who_was_written_to_may_answer(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let nobody = contact(&[]);
    let answer = json!({"to": "@agent_1", "text": "hi", "key": "k"});
    assert_eq!(db.lacks(&nobody, "cus_1", "send", answer.clone()).await, "contact");
    db.says("agent_1", "@cus_1", "How can I help?").await;
    let Ok(Committed::Event(first)) = db.tries_with(&nobody, "cus_1", "send", answer.clone()).await else {
        panic!("an answer");
    };
    let again = db.tries_with(&nobody, "cus_1", "send", answer).await;
    assert!(
        matches!(again, Ok(Committed::Event(again)) if again.seq == first.seq),
        "a retry gets the first one"
    );
}

pub(super) async fn shared_conversations_count_where_the_permissions_say_so(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob", "carol"]})).await;
    db.says("alice", "@dan", "hi").await;
    let shared = contact(&["shared"]);
    let send = |to: &str| json!({"to": to, "text": "hi"});
    db.tries_with(&shared, "bob", "send", send("@carol")).await.expect("they share a room");
    for stranger in ["@dan", "@nobody"] {
        assert_eq!(db.lacks(&shared, "bob", "send", send(stranger)).await, "contact");
    }
    db.tries_with(&shared, "dan", "create", json!({"room": "s", "members": ["alice"]}))
        .await
        .expect("a direct conversation is shared, too");
    db.stores("carol", "leave", json!({"conversation": "#r"})).await;
    assert_eq!(db.lacks(&shared, "carol", "send", send("@alice")).await, "contact", "she has left");
    let many: Vec<_> = (0..101).map(|member| format!("u{member}")).collect();
    let all = db.tries_with(&shared, "bob", "create", json!({"room": "t", "members": many})).await;
    assert_eq!(all.expect_err("refused").permission, Some("contact"), "the first is a stranger");
}

pub(super) async fn cursors_in_a_direct_conversation_are_private_until_both_have_written(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("alice", "@bob", "hi").await;
    let is_private = async |db: &mut TestStore, actor: &str, name: &str, fields: Value| match db
        .tries(actor, name, fields)
        .await
    {
        Ok(Committed::Cursor(cursor)) => cursor.is_private,
        other => panic!("{other:?}"),
    };
    let upto = |with: &str, upto: u64| json!({"conversation": format!("@{with}"), "upto": upto});
    assert!(is_private(&mut db, "bob", "received", upto("alice", 1)).await);
    assert!(is_private(&mut db, "bob", "read", upto("alice", 1)).await);
    let cursors = async |db: &TestStore, actor: &str, with: &str| match db
        .query_page(actor, "members", json!({"conversation": format!("@{with}")}))
        .await
    {
        Ok(OkBody::Members { members, .. }) => {
            members.into_iter().map(|member| (member.user.to_string(), member.read)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let pair = |name: &str, read: u64| (name.to_owned(), Seq(read));
    assert_eq!(
        cursors(&db, "alice", "bob").await,
        [pair("alice", 0), pair("bob", 0)],
        "bob has not answered"
    );
    assert_eq!(cursors(&db, "bob", "alice").await, [pair("alice", 0), pair("bob", 1)], "one's own");
    db.says("bob", "@alice", "hello").await;
    assert!(!is_private(&mut db, "alice", "read", upto("bob", 2)).await);
    assert_eq!(cursors(&db, "alice", "bob").await, [pair("alice", 2), pair("bob", 1)]);
    db.says("alice", "@alice", "a note").await;
    assert!(!is_private(&mut db, "alice", "read", upto("alice", 1)).await, "with oneself");
    db.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
    db.says("alice", "#r", "hi").await;
    assert!(!is_private(&mut db, "bob", "received", json!({"conversation": "#r", "upto": 2})).await);
}
