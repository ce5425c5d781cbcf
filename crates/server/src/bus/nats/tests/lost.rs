//! What a node does when NATS is away, or faster than the node.

use async_nats::Event;

use super::*;

async fn two_nodes(scratch: &tempfile::TempDir) -> (Nats, Node, Node) {
    let nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let alice = Node::connected(&settings, 1).await;
    let mut bob = Node::connected(&settings, 2).await;
    bob.listens(conversation(1)).await;
    (nats, alice, bob)
}

/// Until it is heard: the teller may not know yet that NATS is back.
async fn tells_until_heard(alice: &Node, bob: &mut Node, seq: u64) {
    let heard = async {
        loop {
            alice.tells(1, seq);
            if let Ok(heard) = timeout(Duration::from_millis(100), bob.event()).await
                && heard == seq
            {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("it is heard");
}

#[tokio::test]
async fn a_nats_that_died_and_lives_again_is_a_gap() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (mut nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.kill().await.expect("it dies");
    until(|| !alice.bus.is_connected() && !bob.bus.is_connected()).await;
    assert_eq!(bob.metrics.bus.connected.get(), 0);
    assert!(!bob.probes(PATIENCE).await, "no NATS");
    alice.tells(1, 1);
    assert_eq!(alice.metrics.bus.dropped.get(), 1);
    // What is asked for meanwhile comes about later.
    bob.bus.listen(conversation(2));

    nats.start_again().await.expect("it lives");
    let (mut listening, mut gap) = (false, false);
    while !(listening && gap) {
        match bob.next().await {
            Heard::Listening(addresses) => listening |= addresses == [conversation(2)],
            Heard::Gap => gap = true,
            Heard::Notice(..) => panic!("what was told without NATS"),
        }
    }
    assert_eq!(bob.metrics.bus.connected.get(), 1);
    until(|| alice.bus.is_connected()).await;
    alice.tells(1, 2);
    assert_eq!(bob.event().await, 2, "subscriptions are there again");
    assert!(bob.probes(PATIENCE).await);
}

#[tokio::test]
async fn a_nats_that_says_nothing_is_lost_and_found() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.pause().expect("it stands");
    assert!(!bob.probes(Duration::from_millis(100)).await, "it says nothing");
    // Ten megabytes: more than the buffers of the connection take.
    for seq in 1..=40_000 {
        alice.tells(1, seq);
        if seq % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    until(|| !alice.bus.is_connected() && !bob.bus.is_connected()).await;
    nats.resume().expect("it goes on");
    bob.gap().await;
    tells_until_heard(&alice, &mut bob, 1_000_000).await;
}

#[tokio::test]
async fn a_node_listens_once_nats_has_said_so() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (nats, alice, mut bob) = two_nodes(&scratch).await;
    nats.pause().expect("it stands");
    bob.bus.listen(conversation(2));
    let early = timeout(Duration::from_millis(500), bob.heard.recv()).await;
    assert!(early.is_err(), "NATS knows nothing of it: {early:?}");
    nats.resume().expect("it goes on");
    assert!(matches!(bob.next().await, Heard::Listening(to) if to == [conversation(2)]));
    alice.tells(2, 1);
    assert_eq!(bob.event().await, 1);
}

#[tokio::test]
async fn a_node_starts_without_nats() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    nats.kill().await.expect("it dies");
    let settings = settings(&nats.url(), "sw");
    let (alice, mut bob) = (Node::new(&settings, 1).await, Node::new(&settings, 2).await);
    bob.bus.listen(conversation(1));
    alice.tells(1, 1);
    assert!(!bob.probes(PATIENCE).await, "no NATS");
    nats.start_again().await.expect("it lives");
    let first = bob.next().await;
    assert!(matches!(&first, Heard::Listening(to) if to == &[conversation(1)]), "{first:?}");
    until(|| alice.bus.is_connected()).await;
    alice.tells(1, 2);
    assert_eq!(bob.event().await, 2);
}

#[tokio::test]
async fn a_node_stops_without_nats() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
    let settings = settings(&nats.url(), "sw");
    let (alice, bob) = (Node::connected(&settings, 1).await, Node::connected(&settings, 2).await);
    nats.pause().expect("it stands");
    alice.tells(1, 1);
    drop((alice.bus, alice.heard));
    assert!(alice.tasks.finish(PATIENCE).await, "NATS says nothing");
    nats.resume().expect("it goes on");
    nats.kill().await.expect("it dies");
    drop((bob.bus, bob.heard));
    assert!(bob.tasks.finish(PATIENCE).await, "no NATS");
}

#[tokio::test]
async fn a_flood_that_the_router_does_not_take_is_a_gap() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(conversation(1)).await;
    let mut seq = 0;
    until(|| {
        (0..1_000).for_each(|_| {
            seq += 1;
            alice.tells(1, seq);
        });
        bob.metrics.bus.dropped.get() > 0
    })
    .await;
    assert!(bob.probes(PATIENCE).await, "the bus hears, whatever the router does");
    bob.gap().await;
    tells_until_heard(&alice, &mut bob, 1_000_000).await;
}

#[tokio::test]
async fn a_flood_that_nats_does_not_take_is_dropped() {
    let alice = Node::on_shared(&own_prefix(), 1).await;
    // None of it can be sent before this task waits.
    for seq in 1..=20_000 {
        alice.tells(1, seq);
    }
    let dropped = alice.metrics.bus.dropped.get();
    assert!(dropped > 0, "the queue has a bound");
    until(|| alice.metrics.bus.told.get() + alice.metrics.bus.dropped.get() == 20_000).await;
}

#[tokio::test]
async fn what_the_client_drops_is_a_gap() {
    let mut node = Node::on_shared(&own_prefix(), 1).await;
    node.listens(conversation(1)).await;
    let refused = async_nats::ServerError::Other("permissions".to_owned());
    for event in [Event::SlowConsumer(1), Event::LameDuckMode, Event::ServerError(refused)] {
        node.bus.shared.link.notice(event);
        assert!(matches!(node.next().await, Heard::Gap));
    }
}
