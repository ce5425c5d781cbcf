//! Tests which notices a node publishes in response to those that it receives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard_protocol::Timestamp;

use super::*;
use crate::bus::Bus;
use crate::router::cluster::fake::{FakeStore, router};
use crate::router::presence::Presence;
use switchboard_store::record::Answer;

/// A bus that records what is published.
#[derive(Debug, Default)]
struct RecordingBus(Mutex<Vec<(Address, Notice)>>);

impl RecordingBus {
    fn take(&self) -> Vec<(Address, Notice)> {
        std::mem::take(&mut *self.0.lock().expect("no panic holds the lock"))
    }
}

impl Bus for RecordingBus {
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
    let bus = Arc::new(RecordingBus::default());
    router.node.presence = Presence::new(Duration::ZERO, Some(bus.clone()));
    let subscribed = || BusEvent::Subscribed(vec![Address::User(bob.clone())]);
    router.cluster.as_mut().expect("a cluster").receive(&mut router.node, subscribed());
    assert_eq!(bus.take().len(), 0, "the user is not online yet");
    router.node.presence.session_became_live(
        &router.node.registry,
        router.node.registry.find_user(&bob).expect("bob is connected"),
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

/// Makes the router receive the status of another node whose clock is ahead by so many milliseconds.
fn receives_status(router: &mut crate::router::Router, from: u64, ahead_ms: i64) {
    let time = Timestamp::from_millis(router.node.clock.now().as_millis() + ahead_ms);
    let status = Notice::Status { name: "other".parse().expect("a name"), version: "1.0.0".to_owned(), time };
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.receive(&mut router.node, BusEvent::Notice(NodeId(from), status));
}

#[tokio::test(start_paused = true)]
async fn the_skew_is_how_far_the_most_advanced_clock_of_a_living_node_is_ahead() {
    let (mut router, _batches) = router(&Arc::new(FakeStore::default()), &[]);
    router.node.presence = Presence::new(Duration::ZERO, Some(Arc::new(RecordingBus::default())));
    let skew = |router: &crate::router::Router| {
        let text = router.node.metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix("switchboard_clock_skew_seconds "));
        line.expect("the gauge").parse::<f64>().expect("a number")
    };
    assert_eq!(skew(&router), 0.0);
    receives_status(&mut router, 1, -3_600_000);
    assert_eq!(skew(&router), 0.0, "a late notice looks the same as a clock that is behind");
    receives_status(&mut router, 2, 3_600_000);
    assert!((3_590.0..=3_600.0).contains(&skew(&router)));
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.receive(&mut router.node, BusEvent::Notice(NodeId(2), Notice::Stopped));
    assert_eq!(skew(&router), 0.0, "the node has stopped");
}
