use std::sync::Arc;

use bytes::Bytes;
use switchboard_protocol::{ConversationId, Seq};
use tokio::time::Instant;

use super::*;
use crate::router::Router;
use crate::router::apply::ArrivedEvent;
use crate::router::cluster::fake::{FakeStore, handle_next, router, update_after_input};
use switchboard_store::record::{Effect, JoinOrLeave};

/// Runs one sweep, until no query of memberships is pending.
async fn sweep(router: &mut Router) {
    router.cluster.as_mut().expect("a cluster").sweep(&mut router.node);
    update_after_input(router);
    while router.cluster.as_ref().expect("a cluster").comparisons.querying_memberships {
        handle_next(router).await;
        update_after_input(router);
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_query_fails_does_not_keep_others_from_being_compared() {
    let users: Vec<_> = (0..MAX_USERS_PER_QUERY).map(|n| format!("u{n}")).collect();
    let store = Arc::new(FakeStore::with_members(2, vec!["u123"]));
    let (mut router, _batch) = router(&store, &users);
    sweep(&mut router).await;
    let seen = std::mem::take(&mut *store.seen.lock().expect("whole"));
    assert_eq!(seen.pages.len(), users.len() - 1, "all but one");
    assert!(!seen.pages.contains_key("u123"));
    assert!(seen.pages.values().all(|pages| *pages == 1));
    assert!(seen.failures <= 10, "halving: {}", seen.failures);
    sweep(&mut router).await;
    let seen = store.seen.lock().expect("whole");
    assert!(seen.failures > 0, "the next sweep retries");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_reads_a_portion_of_many_memberships_and_the_next_one_continues() {
    let portions = 3;
    let conversations = i64::try_from(MEMBERSHIPS_PER_SWEEP * portions).expect("a number");
    let store = Arc::new(FakeStore::with_members(conversations, Vec::new()));
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let pages = MEMBERSHIPS_PER_SWEEP / PAGE_SIZE as usize;
    for sweeps in 1..=portions {
        sweep(&mut router).await;
        let seen = store.seen.lock().expect("whole");
        assert_eq!(seen.pages["heavy"], sweeps * pages);
        assert!(seen.longest <= PAGE_SIZE as usize);
    }
    let user = router.node.registry.find_user(&UserId::parse("heavy").expect("a name")).expect("here");
    // The last page was full, so only the next query shows that there are no more pages.
    sweep(&mut router).await;
    assert_eq!(router.node.registry.user(user).expect("here").last_swept, ConversationKey::MIN);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_many_memberships_does_not_keep_others_from_being_compared() {
    let conversations = i64::from(PAGE_SIZE) * 30;
    let store = Arc::new(FakeStore::with_members(conversations, Vec::new()));
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let heavy = router.node.registry.find_user(&UserId::parse("heavy").expect("a name")).expect("here");
    let light = router.node.registry.user_or_new(&UserId::parse("light").expect("a name"));
    router.node.registry.user_mut(light).expect("here").is_loaded = true;
    router.cluster.as_mut().expect("a cluster").compare_user(heavy);
    update_after_input(&mut router);
    router.cluster.as_mut().expect("a cluster").compare_user(light);
    for _ in 0..4 {
        handle_next(&mut router).await;
        update_after_input(&mut router);
    }
    let seen = store.seen.lock().expect("whole");
    assert!(seen.pages.contains_key("light"), "a query between the pages: {:?}", seen.pages);
    assert!(seen.pages["heavy"] < 6);
}

const ROOM: ConversationKey = ConversationKey(7);

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a name")
}

/// A membership change of alice.
fn alice(join_or_leave: JoinOrLeave) -> Effect {
    Effect { user: user("alice"), join_or_leave }
}

fn join_effect() -> Effect {
    alice(JoinOrLeave::Join { seen: Seq(7) })
}

/// A router with alice and bob, and a store that always answers that alice joined the room by its event 8 and is still a member.
fn router_with_outdated_answer() -> Router {
    let store = Arc::new(FakeStore::with_joins_and_leaves(vec![(ROOM, Seq(8), join_effect())]));
    router(&store, &["alice".to_owned(), "bob".to_owned()]).0
}

/// Makes the node host the room with bob as a member, and `applied` as its last applied event.
fn host_conversation(router: &mut Router, applied: u64) {
    let bob = router.node.registry.find_user(&user("bob")).expect("bob is connected");
    router.node.registry.add_member(bob, ROOM, Seq(applied));
}

fn suspect_alice(router: &mut Router) {
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.query_membership_when_loaded(&mut router.node, &user("alice"), ROOM);
    update_after_input(router);
}

fn apply_effect(router: &mut Router, seq: u64, effect: Effect) {
    let (name, frame) = (ConversationId::parse("#room").expect("a name"), Bytes::from_static(b"{}"));
    let arrival = ArrivedEvent {
        name,
        seq: Seq(seq),
        frame: Some(frame),
        sender: None,
        effects: vec![effect],
        ends: false,
        learned_at: Instant::now(),
    };
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.accept_event(&mut router.node, ROOM, arrival);
}

fn alice_is_member(router: &Router) -> bool {
    let alice = router.node.registry.find_user(&user("alice")).expect("alice is connected");
    router.node.registry.is_member(alice, ROOM)
}

#[tokio::test(start_paused = true)]
async fn a_join_that_this_node_has_missed_adds_the_member() {
    let mut router = router_with_outdated_answer();
    suspect_alice(&mut router);
    for _ in 0..2 {
        handle_next(&mut router).await;
    }
    assert!(alice_is_member(&router));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_older_than_an_applied_leave_adds_no_member() {
    let mut router = router_with_outdated_answer();
    host_conversation(&mut router, 8);
    suspect_alice(&mut router);
    apply_effect(&mut router, 9, alice(JoinOrLeave::Leave));
    // The query is repeated, and the store answers as before.
    for _ in 0..6 {
        handle_next(&mut router).await;
        assert!(!alice_is_member(&router));
        update_after_input(&mut router);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_leave_is_dropped_and_the_store_asked_again() {
    let mut router = router_with_outdated_answer();
    host_conversation(&mut router, 8);
    suspect_alice(&mut router);
    apply_effect(&mut router, 9, alice(JoinOrLeave::Leave));
    handle_next(&mut router).await;
    let comparisons = &router.cluster.as_ref().expect("a cluster").comparisons;
    assert!(!comparisons.memberships_to_query.is_empty(), "the store is asked again");
    assert!(router.cluster.as_ref().expect("a cluster").has_no_query(), "and nothing else");
}

#[tokio::test(start_paused = true)]
async fn a_join_adds_no_member_where_this_node_may_have_missed_the_leave() {
    let mut router = router_with_outdated_answer();
    suspect_alice(&mut router);
    // This node begins to host the room after the query, at an event that is later than the answer.
    host_conversation(&mut router, 20);
    for _ in 0..2 {
        handle_next(&mut router).await;
    }
    assert!(!alice_is_member(&router), "alice may have left by an event from 9 to 20");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_read_again_adds_no_member_who_has_left_since() {
    let mut router = router_with_outdated_answer();
    let alices = router.node.registry.find_user(&user("alice")).expect("alice is connected");
    router.node.registry.record_leave(alices, ROOM, Seq(9));
    host_conversation(&mut router, 7);
    apply_effect(&mut router, 8, join_effect());
    assert!(!alice_is_member(&router));
    apply_effect(&mut router, 9, alice(JoinOrLeave::Leave));
    apply_effect(&mut router, 10, alice(JoinOrLeave::Join { seen: Seq(9) }));
    assert!(alice_is_member(&router), "the later join counts");
}
