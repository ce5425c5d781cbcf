//! From subscriptions of places to those of slots, and back.

use super::*;
use crate::bus::nats::listen::{FEW, MOST};
use std::collections::BTreeSet;

/// Conversations of one slot.
fn neighbour(index: usize) -> i64 {
    5 + 1_024 * i64::try_from(index).expect("few")
}

#[tokio::test]
async fn nothing_is_lost_between_places_and_slots() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    bob.listens(conversation(neighbour(0))).await;
    let mut seq = 0;
    let mut heard = BTreeSet::new();
    // Tells until `holds`, and collects what is heard meanwhile.
    let mut flow = async |bob: &mut Node, wanted: i64| {
        let given_up = Instant::now() + PATIENCE;
        while bob.subscriptions() != wanted {
            assert!(Instant::now() < given_up, "{} subscriptions, not {wanted}", bob.subscriptions());
            seq += 1;
            alice.tells(neighbour(0), seq);
            if seq % 16 == 0 {
                tokio::task::yield_now().await;
            }
            while let Ok(told) = bob.heard.try_recv() {
                match told {
                    Heard::Notice(_, Notice::Event { seq: Seq(seq), .. }) => _ = heard.insert(seq),
                    Heard::Gap => panic!("a gap"),
                    _ => {}
                }
            }
        }
        // What is under way still.
        let told: BTreeSet<_> = (1..=seq).collect();
        while heard != told {
            assert_eq!(bob.metrics.bus.dropped.get() + alice.metrics.bus.dropped.get(), 0);
            heard.insert(bob.event().await);
        }
    };
    let places = i64::try_from(MOST).expect("few");
    for _ in 0..3 {
        (1..MOST).for_each(|index| bob.bus.listen(conversation(neighbour(index))));
        flow(&mut bob, places + 1).await;
        bob.bus.listen(conversation(neighbour(MOST)));
        // The slot, and the place for probes.
        flow(&mut bob, 2).await;
        (FEW + 1..=MOST).for_each(|index| bob.bus.ignore(conversation(neighbour(index))));
        flow(&mut bob, 2).await;
        bob.bus.ignore(conversation(neighbour(FEW)));
        flow(&mut bob, i64::try_from(FEW).expect("few") + 1).await;
    }
}

#[tokio::test]
async fn of_a_slot_only_what_was_asked_for_is_heard() {
    let prefix = own_prefix();
    let (alice, mut bob) = (Node::on_shared(&prefix, 1).await, Node::on_shared(&prefix, 2).await);
    for index in 0..=MOST {
        bob.listens(conversation(neighbour(index))).await;
    }
    assert_eq!(bob.subscriptions(), 2);
    alice.tells(neighbour(MOST + 1), 1);
    alice.tells(neighbour(MOST), 2);
    assert_eq!(bob.event().await, 2);
}

#[tokio::test]
async fn many_conversations_have_few_subscriptions() {
    let mut node = Node::on_shared(&own_prefix(), 1).await;
    (1..=50_000).for_each(|key| node.bus.listen(conversation(key)));
    node.listens(conversation(50_001)).await;
    assert_eq!(node.subscriptions(), 1_024 + 1);
    (1..=50_001).for_each(|key| node.bus.ignore(conversation(key)));
    until(|| node.subscriptions() == 1).await;
}
