//! Tests of membership changes while a session attaches. The session reads the memberships of its user at several moments: the
//! cursors with the first page, each further page, then the summaries. It must receive changes that another node makes between two
//! reads.

use switchboard_protocol::{ConversationId, Limits, UserId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;
use crate::frame;
use crate::metrics::Metrics;
use crate::outbox::{Lag, Outbox};
use crate::router::apply::ArrivedEvent;
use crate::router::cluster::fake::{FakeStore, handle_next, router, update_after_input};
use crate::router::{PageHeads, Router};
use switchboard_store::JoinedConversation;
use switchboard_store::block::BlockList;
use switchboard_store::record::Effect;

const ROOM: ConversationKey = ConversationKey(7);

fn alice() -> UserId {
    UserId::parse("alice").expect("a name")
}

fn join_or_leave(join_or_leave: JoinOrLeave) -> Effect {
    Effect { user: alice(), join_or_leave }
}

fn rejoined_after(seen: u64) -> Effect {
    join_or_leave(JoinOrLeave::Join { seen: Seq(seen) })
}

/// An event that makes one membership change.
fn arriving_event(seq: Seq, effect: Effect) -> ArrivedEvent {
    let (name, frame) = (ConversationId::parse("#room").expect("a name"), Some(frame::text("{}")));
    ArrivedEvent {
        name,
        seq,
        frame,
        sender: None,
        effects: vec![effect],
        ends: false,
        learned_at: Instant::now(),
    }
}

/// Registers an attaching session of alice.
async fn attach_alice(router: &mut Router) -> (SessionSlot, Arc<Outbox>) {
    let outbox = Arc::new(Outbox::new(&Limits::default(), Arc::new(Metrics::new())));
    let (reply, session) = oneshot::channel();
    router.enter_session(&alice(), outbox.clone(), reply);
    (session.await.expect("an answer").expect("a slot"), outbox)
}

/// The request of a session to become live, whose last page contains these conversations with their heads.
fn last_page(session: SessionSlot, joined: &[(ConversationKey, Seq)]) -> Subscription {
    let joined = joined
        .iter()
        .map(|(conversation, head)| JoinedConversation { conversation: *conversation, head: *head });
    let joined: Arc<[JoinedConversation]> = joined.collect();
    let mut heads = PageHeads::default();
    heads.add(joined.clone());
    let page = Memberships { mark: 0, after: ConversationKey(5), next: None, joined, latest: Vec::new() };
    Subscription {
        session,
        mark: 0,
        not_before: None,
        page,
        heads,
        cursors: Vec::new(),
        listed: Vec::new(),
        former: Vec::new(),
        blocks: BlockList::default(),
        left_conversations: Vec::new(),
        left_since_read: Vec::new(),
    }
}

/// Applies answers of the store until a session is live.
async fn wait_until_live(router: &mut Router, session: SessionSlot) {
    for _ in 0..20 {
        update_after_input(router);
        if router.node.registry.session(session).is_some_and(|session| session.is_live) {
            return;
        }
        handle_next(router).await;
    }
    panic!("the session never becomes live");
}

/// Attaches a session whose cursor, 8, was valid when its first page was read, and whose last page does not contain the room,
/// because of these joins and leaves. Returns the lag of the session, and whether this node has alice as a member.
async fn lag_after_changes(joins_and_leaves: &[(u64, Effect)]) -> (Option<Lag>, bool) {
    let joins_and_leaves = joins_and_leaves.iter().map(|(seq, effect)| (ROOM, Seq(*seq), effect.clone()));
    let store = Arc::new(FakeStore::with_joins_and_leaves(joins_and_leaves.collect()));
    let (mut router, _batches) = router(&store, &[]);
    let (session, outbox) = attach_alice(&mut router).await;
    router.subscribe_session(Subscription { cursors: vec![(ROOM, Seq(8))], ..last_page(session, &[]) });
    wait_until_live(&mut router, session).await;
    let user = router.node.registry.find_user(&alice()).expect("alice is connected");
    (outbox.next_lag(), router.node.registry.is_member(user, ROOM))
}

#[tokio::test(start_paused = true)]
async fn a_session_receives_the_leave_that_came_between_its_first_page_and_its_last() {
    let (lag, member) = lag_after_changes(&[(9, join_or_leave(JoinOrLeave::Leave))]).await;
    assert_eq!(lag, Some(Lag { conversation: ROOM, cursor: Seq(8), missed: Seq(9) }));
    assert!(!member);
}

#[tokio::test(start_paused = true)]
async fn a_session_receives_the_leave_and_the_join_that_came_between_its_pages() {
    let (lag, member) =
        lag_after_changes(&[(9, join_or_leave(JoinOrLeave::Leave)), (10, rejoined_after(9))]).await;
    assert_eq!(lag, Some(Lag { conversation: ROOM, cursor: Seq(8), missed: Seq(10) }));
    assert!(member);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_up_to_a_leave_a_session_receives_later_events_once_its_user_has_rejoined() {
    let (mut router, _batches) = router(&Arc::new(FakeStore::default()), &[]);
    let (session, outbox) = attach_alice(&mut router).await;
    router.subscribe_session(Subscription {
        left_conversations: vec![(ROOM, Seq(9))],
        ..last_page(session, &[(ROOM, Seq(12))])
    });
    wait_until_live(&mut router, session).await;
    assert_eq!(outbox.next_lag(), Some(Lag { conversation: ROOM, cursor: Seq(9), missed: Seq(12) }));
}

/// Attaches a session that knows the leave 3 because it received a `gap` up to it, while this node reads the log again from event 1
/// on, with these joins and leaves. Returns the lag of the session.
async fn lag_after_reading_again(effects: Vec<Effect>) -> Option<Lag> {
    let (mut router, _batches) = router(&Arc::new(FakeStore::default()), &[]);
    let (session, outbox) = attach_alice(&mut router).await;
    for (seq, effect) in (2..).map(Seq).zip(effects) {
        router.cluster.as_mut().expect("a cluster").accept_event(
            &mut router.node,
            ROOM,
            arriving_event(seq, effect),
        );
    }
    router.subscribe_session(Subscription {
        left_conversations: vec![(ROOM, Seq(3))],
        ..last_page(session, &[])
    });
    wait_until_live(&mut router, session).await;
    outbox.next_lag()
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_up_to_a_leave_a_session_receives_no_earlier_event() {
    let effects = vec![rejoined_after(1), join_or_leave(JoinOrLeave::Leave)];
    assert_eq!(lag_after_reading_again(effects).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_user_rejoins_after_a_gap_receives_no_event_before_the_leave() {
    let effects = vec![rejoined_after(1), join_or_leave(JoinOrLeave::Leave), rejoined_after(3)];
    let lag = Lag { conversation: ROOM, cursor: Seq(3), missed: Seq(4) };
    assert_eq!(lag_after_reading_again(effects).await, Some(lag));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_user_joins_between_its_last_page_and_its_summaries_becomes_live() {
    let store = Arc::new(FakeStore::with_joins_and_leaves(vec![(ROOM, Seq(2), rejoined_after(1))]));
    let (mut router, _batches) = router(&store, &[]);
    let (session, outbox) = attach_alice(&mut router).await;
    router.cluster.as_mut().expect("a cluster").accept_event(
        &mut router.node,
        ROOM,
        arriving_event(Seq(2), rejoined_after(1)),
    );
    router.subscribe_session(Subscription { listed: vec![(ROOM, Seq(2))], ..last_page(session, &[]) });
    wait_until_live(&mut router, session).await;
    assert_eq!(outbox.next_lag(), None, "the summary contains it");
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_the_removal_that_its_page_contains() {
    let store = Arc::new(FakeStore::with_joins_and_leaves(vec![
        (ROOM, Seq(8), rejoined_after(7)),
        (ROOM, Seq(9), join_or_leave(JoinOrLeave::Leave)),
    ]));
    let (mut router, _batches) = router(&store, &[]);
    let (first, _) = attach_alice(&mut router).await;
    router.subscribe_session(last_page(first, &[(ROOM, Seq(8))]));
    wait_until_live(&mut router, first).await;
    // Another node has stored the removal, and this one has not applied it.
    let (second, outbox) = attach_alice(&mut router).await;
    router.subscribe_session(last_page(second, &[]));
    update_after_input(&mut router);
    let live = |router: &Router| router.node.registry.session(second).is_some_and(|session| session.is_live);
    assert!(!live(&router), "the session would receive the event of a room that it does not have");
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.accept_event(&mut router.node, ROOM, arriving_event(Seq(9), join_or_leave(JoinOrLeave::Leave)));
    update_after_input(&mut router);
    assert!(live(&router));
    assert_eq!(outbox.next_lag(), None);
}

#[tokio::test(start_paused = true)]
async fn a_session_receives_a_conversation_that_another_session_of_its_user_has_on_a_newer_page() {
    const OTHER_ROOM: ConversationKey = ConversationKey(8);
    let store = Arc::new(FakeStore::with_joins_and_leaves(vec![
        (OTHER_ROOM, Seq(8), rejoined_after(7)),
        (ROOM, Seq(1), rejoined_after(0)),
    ]));
    let (mut router, _batches) = router(&store, &[]);
    let (older, outbox) = attach_alice(&mut router).await;
    let (newer, _) = attach_alice(&mut router).await;
    // The store is asked about the cursor of the older session, and has not answered when the newer page arrives.
    router.subscribe_session(Subscription { cursors: vec![(OTHER_ROOM, Seq(8))], ..last_page(older, &[]) });
    router.subscribe_session(last_page(newer, &[(ROOM, Seq(1))]));
    wait_until_live(&mut router, newer).await;
    wait_until_live(&mut router, older).await;
    assert_eq!(outbox.next_lag(), Some(Lag { conversation: ROOM, cursor: Seq(0), missed: Seq(1) }));
}
