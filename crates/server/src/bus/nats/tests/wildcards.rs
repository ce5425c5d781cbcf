//! Tests of the switch between exact subscriptions and a wildcard.

use super::*;
use crate::bus::nats::subscribe::{MAX_EXACT_AFTER_WILDCARD, MAX_EXACT_PER_SLOT};
use std::collections::BTreeSet;

/// Returns a conversation for each index. All of them are in the same hash slot.
fn key_in_first_slot(index: usize) -> i64 {
    5 + 1_024 * i64::try_from(index).expect("few")
}

#[tokio::test]
async fn no_notice_is_lost_while_switching_to_a_wildcard_and_back() {
    let prefix = unique_prefix();
    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    bob.subscribe(conversation(key_in_first_slot(0))).await;
    let mut seq = 0;
    let mut received = BTreeSet::new();
    // Publishes until bob has `wanted` subscriptions, then expects every notice published.
    let mut publish_until = async |bob: &mut Node, wanted: i64| {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while bob.subscription_count() != wanted {
            assert!(Instant::now() < deadline, "{} subscriptions, not {wanted}", bob.subscription_count());
            seq += 1;
            alice.publish(key_in_first_slot(0), seq);
            if seq % 16 == 0 {
                tokio::task::yield_now().await;
            }
            while let Ok(event) = bob.events.try_recv() {
                match event {
                    BusEvent::Notice(_, Notice::Event { seq: Seq(seq), .. }) => _ = received.insert(seq),
                    BusEvent::Gap => panic!("a gap"),
                    _ => {}
                }
            }
        }
        // Waits for the notices that are still in flight.
        let published: BTreeSet<_> = (1..=seq).collect();
        while received != published {
            assert_eq!(bob.metrics.bus.dropped.get() + alice.metrics.bus.dropped.get(), 0);
            received.insert(bob.next_seq().await);
        }
    };
    let exact = i64::try_from(MAX_EXACT_PER_SLOT).expect("few");
    for _ in 0..3 {
        (1..MAX_EXACT_PER_SLOT).for_each(|index| bob.bus.subscribe(conversation(key_in_first_slot(index))));
        publish_until(&mut bob, exact + 1).await;
        bob.bus.subscribe(conversation(key_in_first_slot(MAX_EXACT_PER_SLOT)));
        // The two subscriptions are the wildcard and the one for probes.
        publish_until(&mut bob, 2).await;
        (MAX_EXACT_AFTER_WILDCARD + 1..=MAX_EXACT_PER_SLOT)
            .for_each(|index| bob.bus.unsubscribe(conversation(key_in_first_slot(index))));
        publish_until(&mut bob, 2).await;
        bob.bus.unsubscribe(conversation(key_in_first_slot(MAX_EXACT_AFTER_WILDCARD)));
        publish_until(&mut bob, i64::try_from(MAX_EXACT_AFTER_WILDCARD).expect("few") + 1).await;
    }
}

#[tokio::test]
async fn a_wildcard_passes_on_only_desired_subjects() {
    let prefix = unique_prefix();
    let (alice, mut bob) =
        (Node::connect_to_shared(&prefix, 1).await, Node::connect_to_shared(&prefix, 2).await);
    for index in 0..=MAX_EXACT_PER_SLOT {
        bob.subscribe(conversation(key_in_first_slot(index))).await;
    }
    assert_eq!(bob.subscription_count(), 2);
    alice.publish(key_in_first_slot(MAX_EXACT_PER_SLOT + 1), 1);
    alice.publish(key_in_first_slot(MAX_EXACT_PER_SLOT), 2);
    assert_eq!(bob.next_seq().await, 2);
}

#[tokio::test]
async fn fifty_thousand_conversations_take_one_subscription_per_slot() {
    let mut node = Node::connect_to_shared(&unique_prefix(), 1).await;
    (1..=50_000).for_each(|key| node.bus.subscribe(conversation(key)));
    node.subscribe(conversation(50_001)).await;
    assert_eq!(node.subscription_count(), 1_024 + 1);
    (1..=50_001).for_each(|key| node.bus.unsubscribe(conversation(key)));
    wait_until(|| node.subscription_count() == 1).await;
}
