use std::sync::Arc;

use super::*;
use crate::router::Router;
use crate::router::cluster::fake::{Fake, after_input, handle_next, router};

/// Runs one sweep, until no query of memberships is pending.
async fn sweep(router: &mut Router) {
    router.cluster.as_mut().expect("a cluster").sweep(&mut router.node);
    after_input(router);
    while router.cluster.as_ref().expect("a cluster").comparisons.querying_places {
        handle_next(router).await;
        after_input(router);
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_query_fails_does_not_keep_others_from_being_compared() {
    let users: Vec<_> = (0..MAX_USERS).map(|n| format!("u{n}")).collect();
    let store = Arc::new(Fake::with_members(2, vec!["u123"]));
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
    let conversations = i64::try_from(PORTION * portions).expect("a number");
    let store = Arc::new(Fake::with_members(conversations, Vec::new()));
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let pages = PORTION / PAGE as usize;
    for sweeps in 1..=portions {
        sweep(&mut router).await;
        let seen = store.seen.lock().expect("whole");
        assert_eq!(seen.pages["heavy"], sweeps * pages);
        assert!(seen.longest <= PAGE as usize);
    }
    let user = router.node.registry.find(&UserId::parse("heavy").expect("a name")).expect("here");
    // The last page was full, so only the next query shows that there are no more pages.
    sweep(&mut router).await;
    assert_eq!(router.node.registry.user(user).expect("here").swept, ConversationKey::MIN);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_many_memberships_does_not_keep_others_from_being_compared() {
    let conversations = i64::from(PAGE) * 30;
    let store = Arc::new(Fake::with_members(conversations, Vec::new()));
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let heavy = router.node.registry.find(&UserId::parse("heavy").expect("a name")).expect("here");
    let light = router.node.registry.user_or_new(&UserId::parse("light").expect("a name"));
    router.node.registry.user_mut(light).expect("here").loaded = true;
    router.cluster.as_mut().expect("a cluster").verify(heavy);
    after_input(&mut router);
    router.cluster.as_mut().expect("a cluster").verify(light);
    for _ in 0..4 {
        handle_next(&mut router).await;
        after_input(&mut router);
    }
    let seen = store.seen.lock().expect("whole");
    assert!(seen.pages.contains_key("light"), "a query between the pages: {:?}", seen.pages);
    assert!(seen.pages["heavy"] < 6);
}
