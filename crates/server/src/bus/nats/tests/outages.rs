//! Tests of a node that cannot reach NATS, whose NATS server is stalled, or that is a slow consumer.

use async_nats::Event;

use super::*;

async fn two_nodes(scratch: &tempfile::TempDir) -> (Nats, Node, Node) {
    let nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let alice = Node::connect(&settings, 1).await;
    let mut bob = Node::connect(&settings, 2).await;
    bob.subscribe(conversation(1)).await;
    (nats, alice, bob)
}

/// Publishes an event until bob receives it, because alice may not have reconnected yet.
async fn publish_until_received(alice: &Node, bob: &mut Node, seq: u64) {
    let received = async {
        loop {
            alice.publish(1, seq);
            if let Ok(received) = timeout(Duration::from_millis(100), bob.next_seq()).await
                && received == seq
            {
                return;
            }
        }
    };
    timeout(TEST_TIMEOUT, received).await.expect("the notice arrives");
}

#[tokio::test]
async fn a_restart_of_nats_is_reported_as_a_gap() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (mut nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.kill().await.expect("NATS is killed");
    wait_until(|| !alice.bus.is_connected() && !bob.bus.is_connected()).await;
    assert_eq!(bob.metrics.bus.connected.get(), 0);
    assert!(!bob.probe_succeeds(TEST_TIMEOUT).await, "no NATS");
    alice.publish(1, 1);
    assert_eq!(alice.metrics.bus.dropped.get(), 1);
    // This subscription is made during the outage, and confirmed after it.
    bob.bus.subscribe(conversation(2));

    nats.start_again().await.expect("NATS restarts");
    let (mut subscribed, mut gap) = (false, false);
    while !(subscribed && gap) {
        match bob.next_event().await {
            BusEvent::Subscribed(addresses) => subscribed |= addresses == [conversation(2)],
            BusEvent::Gap => gap = true,
            BusEvent::Notice(..) => panic!("a notice published without NATS"),
        }
    }
    assert_eq!(bob.metrics.bus.connected.get(), 1);
    wait_until(|| alice.bus.is_connected()).await;
    alice.publish(1, 2);
    assert_eq!(bob.next_seq().await, 2, "subscriptions are restored");
    assert!(bob.probe_succeeds(TEST_TIMEOUT).await);
}

#[tokio::test]
async fn a_stalled_nats_counts_as_lost_until_it_resumes() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.pause().expect("NATS is paused");
    assert!(!bob.probe_succeeds(Duration::from_millis(100)).await, "NATS is stalled");
    // Ten megabytes: more than the connection's buffers hold.
    for seq in 1..=40_000 {
        alice.publish(1, seq);
        if seq % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    wait_until(|| !alice.bus.is_connected() && !bob.bus.is_connected()).await;
    nats.resume().expect("NATS is resumed");
    bob.wait_for_gap().await;
    publish_until_received(&alice, &mut bob, 1_000_000).await;
}

#[tokio::test]
async fn a_subscription_is_reported_once_nats_has_confirmed_it() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.pause().expect("NATS is paused");
    bob.bus.subscribe(conversation(2));
    let early = timeout(Duration::from_millis(500), bob.events.recv()).await;
    assert!(early.is_err(), "NATS has not seen it: {early:?}");
    nats.resume().expect("NATS is resumed");
    assert!(matches!(bob.next_event().await, BusEvent::Subscribed(to) if to == [conversation(2)]));
    alice.publish(2, 1);
    assert_eq!(bob.next_seq().await, 1);
}

#[tokio::test]
async fn a_node_starts_without_nats() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    nats.kill().await.expect("NATS is killed");
    let settings = settings(&nats.url(), "sw");
    let (alice, mut bob) = (Node::new(&settings, 1).await, Node::new(&settings, 2).await);
    bob.bus.subscribe(conversation(1));
    alice.publish(1, 1);
    assert!(!bob.probe_succeeds(TEST_TIMEOUT).await, "no NATS");
    nats.start_again().await.expect("NATS restarts");
    let first = bob.next_event().await;
    assert!(matches!(&first, BusEvent::Subscribed(to) if to == &[conversation(1)]), "{first:?}");
    wait_until(|| alice.bus.is_connected()).await;
    alice.publish(1, 2);
    assert_eq!(bob.next_seq().await, 2);
}

#[tokio::test]
async fn a_node_stops_without_nats() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let (alice, bob) = (Node::connect(&settings, 1).await, Node::connect(&settings, 2).await);
    nats.pause().expect("NATS is paused");
    alice.publish(1, 1);
    drop((alice.bus, alice.events));
    assert!(alice.tasks.finish(TEST_TIMEOUT).await, "NATS is stalled");
    nats.resume().expect("NATS is resumed");
    nats.kill().await.expect("NATS is killed");
    drop((bob.bus, bob.events));
    assert!(bob.tasks.finish(TEST_TIMEOUT).await, "no NATS");
}

#[tokio::test]
async fn a_full_router_queue_drops_notices_and_reports_a_gap() {
    let prefix = unique_prefix();
    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    bob.subscribe(conversation(1)).await;
    let mut seq = 0;
    wait_until(|| {
        (0..1_000).for_each(|_| {
            seq += 1;
            alice.publish(1, seq);
        });
        bob.metrics.bus.dropped.get() > 0
    })
    .await;
    assert!(bob.probe_succeeds(TEST_TIMEOUT).await, "the bus receives although the router does not");
    bob.wait_for_gap().await;
    publish_until_received(&alice, &mut bob, 1_000_000).await;
}

#[tokio::test]
async fn notices_beyond_the_publish_queue_are_dropped() {
    let alice = Node::connect_to_shared(&unique_prefix(), 1).await;
    // The publishing task cannot run before this task awaits.
    for seq in 1..=20_000 {
        alice.publish(1, seq);
    }
    let dropped = alice.metrics.bus.dropped.get();
    assert!(dropped > 0, "the queue has a bound");
    wait_until(|| alice.metrics.bus.published.get() + alice.metrics.bus.dropped.get() == 20_000).await;
}

#[tokio::test]
async fn a_client_event_that_may_lose_messages_is_reported_as_a_gap() {
    let mut node = Node::connect_to_shared(&unique_prefix(), 1).await;
    node.subscribe(conversation(1)).await;
    let denied = async_nats::ServerError::Other("permissions".to_owned());
    for event in [Event::SlowConsumer(1), Event::LameDuckMode, Event::ServerError(denied)] {
        node.bus.shared.connection.on_event(event);
        assert!(matches!(node.next_event().await, BusEvent::Gap));
    }
}
