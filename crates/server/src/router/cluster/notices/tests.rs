//! Tests which notices a node publishes in response to those that it receives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::bus::Bus;
use crate::router::cluster::fake::{FakeStore, router};
use crate::router::presence::Presence;
use switchboard_store::record::Answer;

/// A bus that records what is published.
#[derive(Debug, Default)]
struct Recording(Mutex<Vec<(Address, Notice)>>);

impl Recording {
    fn take(&self) -> Vec<(Address, Notice)> {
        std::mem::take(&mut *self.0.lock().expect("no panic holds the lock"))
    }
}

impl Bus for Recording {
    fn publish(&self, address: &Address, notice: &Notice) {
        self.0.lock().expect("no panic holds the lock").push((address.clone(), notice.clone()));
    }

    fn subscribe(&self, _: Address) {}

    fn unsubscribe(&self, _: Address) {}

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_publishes_that_a_user_is_online_once_it_can_receive_queries_about_them() {
    let bob = UserId::parse("bob").expect("a name");
    let (mut router, _batches) = router(&Arc::new(FakeStore::default()), &[bob.to_string()]);
    let bus = Arc::new(Recording::default());
    router.node.presence = Presence::new(Duration::ZERO, Some(bus.clone()));
    let subscribed = || BusEvent::Subscribed(vec![Address::User(bob.clone())]);
    router.cluster.as_mut().expect("a cluster").receive(&mut router.node, subscribed());
    assert_eq!(bus.take().len(), 0, "the user is not online yet");
    router.node.presence.session_became_live(
        &router.node.registry,
        router.node.registry.find(&bob).expect("bob is connected"),
    );
    let [(first, Notice::Presence { number: one, .. })] = &bus.take()[..] else { panic!("one notice") };
    router.cluster.as_mut().expect("a cluster").receive(&mut router.node, subscribed());
    let notices = bus.take();
    let [(again, Notice::Presence { user, last_seen: None, number: two, .. })] = &notices[..] else {
        panic!("{notices:?}")
    };
    let watched = Address::Watched(bob.clone());
    assert_eq!((first, again, user), (&watched, &watched, &bob));
    assert!(one < two, "the later one has the higher number");
}

#[test]
fn only_a_clock_that_is_seconds_ahead_is_worth_a_warning() {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let seen_at = |ms: i64| clock_lead(Timestamp::from_millis(now.as_millis() + ms), now);
    assert_eq!((seen_at(-3_600_000), seen_at(0), seen_at(2_000)), (None, None, None));
    assert_eq!(seen_at(3_600_000), Some(3_600_000));
}
