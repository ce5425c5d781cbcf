//! Tests which writes the store receives when a server stops.

use std::sync::Arc;
use std::time::Duration;

use switchboard_protocol::{Timestamp, UserId};
use tokio::sync::mpsc;

use super::MAX_QUEUED_DEPARTURES;
use crate::router::Router;
use crate::router::cluster::fake::{FakeStore, router};
use crate::tasks::Tasks;
use switchboard_store::origin::Origin;
use switchboard_store::{Batch, Committed, Outcome};

const USERS: usize = 1_000;

/// A router that is about to stop: [`USERS`] users are online in their grace period, without a session.
fn stopping_router() -> (Arc<FakeStore>, Router, mpsc::Sender<Batch>) {
    let names: Vec<_> = (0..USERS).map(|n| format!("u{n}")).collect();
    let store = Arc::new(FakeStore::writable());
    let (mut router, batches) = router(&store, &names);
    for name in &names {
        let user = router
            .node
            .registry
            .find_user(&UserId::parse(name).expect("a name"))
            .expect("the user was added");
        router.node.presence.session_became_live(&router.node.registry, user);
        router.node.presence.start_grace_period(user, Timestamp::from_millis(7));
    }
    (store, router, batches)
}

/// Waits until writes have been submitted, and returns how many.
async fn submitted(store: &FakeStore) -> usize {
    loop {
        match store.take_submitted() {
            0 => tokio::task::yield_now().await,
            some => return some,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_stores_the_last_seen_times_of_users_in_portions() {
    let (store, router, batches) = stopping_router();
    let writer = async {
        let mut stored = 0;
        for number in 1.. {
            let some = submitted(&store).await;
            assert!(some <= MAX_QUEUED_DEPARTURES, "{some} writes at once");
            stored += some;
            let outcome = || Outcome { origin: Origin::Internal, result: Ok(Committed::NotAnnounced) };
            let outcomes = std::iter::repeat_with(outcome).take(some).collect();
            batches
                .send(Batch { number, outcomes, has_more: false, stored_after_all: Vec::new() })
                .await
                .expect("the router runs");
            if stored == USERS {
                break;
            }
        }
        drop(batches);
    };
    tokio::join!(router.run(Tasks::new()), writer);
    assert_eq!(store.take_submitted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_delays_a_stop_until_its_deadline() {
    let (store, router, _batches) = stopping_router();
    let tasks = Tasks::new();
    let deadline = async {
        assert_eq!(submitted(&store).await, MAX_QUEUED_DEPARTURES);
        tasks.deadline_passed().cancel();
    };
    let stop = tokio::time::timeout(Duration::from_secs(60), router.run(tasks.clone()));
    let (stop, ()) = tokio::join!(stop, deadline);
    stop.expect("the router ends");
    assert_eq!(store.take_submitted(), 0, "the rest is lost");
}
