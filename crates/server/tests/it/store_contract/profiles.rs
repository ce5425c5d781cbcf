//! Profiles: versions, who sees them, how they are found, and where their names appear.

use serde_json::{Value, json};
use switchboard_protocol::reply::{OkBody, Profile};
use switchboard_protocol::{Limits, SetProfile, Timestamp};
use switchboard_store::profile::{Directory, People, PeopleQuery, ProfileChange, TokenProfile};
use switchboard_store::{Change, Committed, CommittedProfiles};

use super::{OpenStore, StoreRules, TestStore};
use crate::support::{in_time, user};

fn profile_fields(fields: &Value) -> SetProfile {
    serde_json::from_value(fields.clone()).expect("fields of a profile")
}

impl TestStore {
    async fn stores_profiles(&mut self, actor: &str, change: Change) -> CommittedProfiles {
        self.submits(actor, change);
        match self.next_outcome().await {
            Ok(Committed::Profiles(profiles)) => *profiles,
            other => panic!("{actor} stores no profile: {other:?}"),
        }
    }

    /// Changes a user's own profile, and returns its version.
    async fn is_named(&mut self, actor: &str, named: Value) -> u64 {
        let stored = self.stores_profiles(actor, Change::SetProfile(Box::new(profile_fields(&named)))).await;
        let (who, version) = stored.own.expect("one's own");
        assert_eq!(who, user(actor));
        assert!(stored.changed.iter().all(|shown| shown.profile.version == version));
        version
    }

    async fn people(&self, actor: &str, query: PeopleQuery, directory: Directory) -> People {
        in_time("profiles", self.store.people(&user(actor), query, directory)).await.expect("profiles")
    }

    async fn sees(&self, actor: &str, users: &[&str], directory: Directory) -> Vec<Profile> {
        let users = users.iter().map(|name| user(name)).collect();
        self.people(actor, PeopleQuery::Users(users), directory).await.users
    }

    async fn finds(&self, actor: &str, query: &str, directory: Directory) -> Vec<String> {
        let find = PeopleQuery::Find { query: query.to_owned(), limit: Some(200) };
        let found = self.people(actor, find, directory).await.users;
        found.into_iter().map(|profile| profile.user.to_string()).collect()
    }
}

pub(super) async fn a_change_of_a_profile_changes_only_the_fields_that_it_names(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    assert_eq!(db.is_named("ana", json!({"name": "Ana", "data": {"tier": "gold"}})).await, 1);
    assert_eq!(db.is_named("ana", json!({"name": "Ana"})).await, 1, "nothing differs");
    assert_eq!(db.is_named("ana", json!({"avatar": "https://images.example.com/a.png"})).await, 2);
    assert_eq!(db.is_named("ana", json!({"data": null})).await, 3);
    db.reopen().await;
    let seen = db.sees("ana", &["ana"], Directory::Off).await;
    let expected =
        json!([{"user": "ana", "name": "Ana", "avatar": "https://images.example.com/a.png", "version": 3}]);
    assert_eq!(serde_json::to_value(seen).expect("JSON"), expected);
}

pub(super) async fn a_user_sees_the_profiles_of_users_with_a_shared_conversation(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    for (name, shown) in [("ana", "Ana"), ("bob", "Bob"), ("eve", "Eve"), ("zoe", "Zoe")] {
        db.is_named(name, json!({"name": shown})).await;
    }
    db.says("ana", "@bob", "hi").await;
    db.stores("zoe", "create", json!({"room": "r", "members": ["ana", "dan"]})).await;
    let asked = ["zoe", "nobody", "eve", "bob", "ana", "dan"];
    let names = |profiles: Vec<Profile>| -> Vec<_> {
        profiles.into_iter().map(|profile| (profile.user.to_string(), profile.version)).collect()
    };
    let pair = |name: &str, version: u64| (name.to_owned(), version);
    let shared = names(db.sees("ana", &asked, Directory::Shared).await);
    assert_eq!(
        shared,
        [pair("zoe", 1), pair("bob", 1), pair("ana", 1), pair("dan", 0)],
        "in the order asked"
    );
    assert_eq!(names(db.sees("ana", &asked, Directory::All).await).len(), 5);
    assert_eq!(names(db.sees("ana", &asked, Directory::Off).await), [pair("ana", 1)]);
    assert_eq!(names(db.sees("nobody", &asked, Directory::Shared).await), []);
    assert_eq!(db.finds("ana", "eve", Directory::Shared).await, [""; 0], "a search finds no other users");
    assert_eq!(db.finds("ana", "zo", Directory::Shared).await, ["zoe"]);
    assert_eq!(db.finds("ana", "zo", Directory::Off).await, [""; 0]);
}

pub(super) async fn users_are_found_by_the_beginning_of_a_word(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    for (name, shown) in [
        ("usr_1", "Ana María López"),
        ("usr_2", "Анна Каренина"),
        ("usr_3", "王小明"),
        ("Zed", "Ana"),
        ("usr_4", "Jürgen Straße"),
    ] {
        db.is_named(name, json!({"name": shown})).await;
    }
    db.says("alice", "@anabel", "a user without a profile").await;
    for (query, found) in [
        ("ana", vec!["Zed", "usr_1", "anabel"]),
        ("MARIA L", vec!["usr_1"]),
        ("каре", vec!["usr_2"]),
        ("小明", vec!["usr_3"]),
        ("strasse", vec!["usr_4"]),
        ("USR_4", vec!["usr_4"]),
        ("zed", vec!["Zed"]),
        ("nobody", vec![]),
        ("%", vec![]),
        ("ria", vec![]),
    ] {
        assert_eq!(db.finds("alice", query, Directory::All).await, found, "{query}");
    }
    db.is_named("usr_1", json!({"name": "Bea"})).await;
    assert_eq!(db.finds("alice", "maria", Directory::All).await, [""; 0], "no longer by the old name");
    assert_eq!(db.finds("alice", "bea", Directory::All).await, ["usr_1"]);
}

pub(super) async fn a_page_of_profiles_is_bounded_in_users_and_bytes(open: OpenStore) {
    let limits = Limits { page_bytes: 2_000, page: 10, ..Limits::default() };
    let mut db = TestStore::open_with(open, StoreRules { limits, ..StoreRules::default() }).await;
    let mut changes = Vec::new();
    for n in 0..20 {
        let named = json!({"name": format!("Ana {n}"), "data": {"about": "x".repeat(300)}});
        changes.push(ProfileChange {
            user: user(&format!("u{n}")),
            fields: profile_fields(&named),
            active: None,
        });
    }
    db.stores_profiles("key", Change::SetProfiles(changes)).await;
    let all = (0..20).map(|n| user(&format!("u{n}"))).collect();
    let page = db.people("alice", PeopleQuery::Users(all), Directory::All).await;
    assert!(page.more && (4..=6).contains(&page.users.len()), "{}", page.users.len());
    let find = PeopleQuery::Find { query: "ana".to_owned(), limit: Some(3) };
    let page = db.people("alice", find, Directory::All).await;
    assert_eq!((page.users.len(), page.more), (3, true));
}

pub(super) async fn names_are_on_pages_of_members_and_in_summaries(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.stores("alice", "create", json!({"room": "r", "members": ["bob", "eve"]})).await;
    db.says("alice", "@bob", "hi").await;
    db.says("alice", "@eve", "hi").await;
    db.says("alice", "@alice", "note").await;
    let named = json!({"name": "Bob", "avatar": "https://images.example.com/b.png"});
    db.is_named("bob", named.clone()).await;
    let Ok(OkBody::Members { members, more: false, .. }) =
        db.query_page("alice", "members", json!({"conversation": "#r"})).await
    else {
        panic!("no members")
    };
    let name = |at: usize| members[at].name.as_ref().map(switchboard_protocol::PersonName::as_str);
    assert_eq!((members.len(), name(0), name(1), name(2)), (3, None, Some("Bob"), None));
    let with =
        |summary: switchboard_protocol::reply::Summary| serde_json::to_value(summary.with).expect("JSON");
    let bob = json!({"user": "bob", "name": "Bob", "avatar": "https://images.example.com/b.png"});
    assert_eq!(with(db.summary("alice", "@alice:bob").await), bob);
    for other in ["@alice:eve", "@alice:alice", "#r"] {
        assert_eq!(with(db.summary("alice", other).await), Value::Null, "{other}");
    }
    assert_eq!(with(db.summary("bob", "@alice:bob").await), Value::Null, "it names the other user");
}

pub(super) async fn a_deactivated_user_cannot_sign_in_and_keeps_the_name(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    db.says("ana", "@bob", "hi").await;
    let change = |named: Value, active| {
        let change =
            ProfileChange { user: user("ana"), fields: profile_fields(&named), active: Some(active) };
        Change::SetProfiles(vec![change])
    };
    db.stores_profiles("key", change(json!({"name": "Ana"}), false)).await;
    let revoked =
        in_time("the revocation", db.store.standing(&user("ana"))).await.expect("an answer").not_before;
    assert_eq!(revoked, Some(Timestamp::from_millis(i64::MAX)), "every token is revoked");
    assert_eq!(db.snapshot("ana", &[]).await.expect("a user").standing.not_before, revoked);
    assert_eq!(db.finds("bob", "ana", Directory::All).await, [""; 0]);
    assert_eq!(db.sees("bob", &["ana"], Directory::Shared).await.len(), 1, "the name stays");
    db.stores_profiles("key", change(json!({}), true)).await;
    assert_eq!(
        in_time("an answer", db.store.standing(&user("ana"))).await.expect("an answer").not_before,
        None
    );
    assert_eq!(db.finds("bob", "ana", Directory::All).await, ["ana"]);
}

pub(super) async fn a_token_changes_the_profile_only_if_it_is_newer_and_has_other_claims(open: OpenStore) {
    let mut db = TestStore::new(open).await;
    let token = |name: &str, at: i64| {
        Change::ReadToken(Box::new(TokenProfile {
            fields: profile_fields(&json!({"name": name})),
            claims: name.to_owned(),
            issued: Timestamp::from_millis(at),
        }))
    };
    let mut changes = Vec::new();
    for (name, at) in [("Ana", 10), ("Ana", 20), ("Bea", 5), ("Bea", 30), ("Ana", 30)] {
        changes.push(db.stores_profiles("ana", token(name, at)).await.changed.len());
    }
    assert_eq!(changes, [1, 0, 0, 1, 0]);
    // The last write wins: the same token does not take back what a back end has written since.
    db.is_named("ana", json!({"name": "Cleo"})).await;
    assert_eq!(db.stores_profiles("ana", token("Bea", 40)).await.changed.len(), 0);
    assert_eq!(db.sees("ana", &["ana"], Directory::Off).await[0].version, 3);
    let last = in_time("the token", db.store.last_token(&user("ana"))).await.expect("an answer");
    assert_eq!(last.map(|last| (last.issued.as_millis(), last.claims)), Some((30, "Bea".to_owned())));
}
