//! What a node tells others because of what it hears.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::bus::Bus;
use crate::router::presence::Presence;
use crate::router::verify::tests::{Fake, router};
use switchboard_store::record::Answer;

/// A bus that keeps what is published.
#[derive(Debug, Default)]
struct Recording(Mutex<Vec<(Address, Notice)>>);

impl Recording {
    fn take(&self) -> Vec<(Address, Notice)> {
        std::mem::take(&mut *self.0.lock().expect("whole"))
    }
}

impl Bus for Recording {
    fn publish(&self, address: &Address, notice: &Notice) {
        self.0.lock().expect("whole").push((address.clone(), notice.clone()));
    }

    fn subscribe(&self, _: Address) {}

    fn unsubscribe(&self, _: Address) {}

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_says_that_it_has_a_user_once_it_can_be_asked_about_them() {
    let bob = UserId::parse("bob").expect("a name");
    let (mut router, _batches) = router(&Arc::new(Fake::default()), &[bob.to_string()]);
    let bus = Arc::new(Recording::default());
    router.presence = Presence::new(Duration::ZERO, Some(bus.clone()));
    let subscribed = || BusEvent::Subscribed(vec![Address::User(bob.clone())]);
    router.hear(subscribed());
    assert_eq!(bus.take().len(), 0, "the user is not online yet");
    router.presence.arrived(&router.registry, router.registry.find(&bob).expect("here"));
    let [(first, Notice::Presence { number: one, .. })] = &bus.take()[..] else { panic!("one notice") };
    router.hear(subscribed());
    let told = bus.take();
    let [(again, Notice::Presence { user, last_seen: None, number: two, .. })] = &told[..] else {
        panic!("{told:?}")
    };
    let watched = Address::Watched(bob.clone());
    assert_eq!((first, again, user), (&watched, &watched, &bob));
    assert!(one < two, "the later one has the higher number");
}
