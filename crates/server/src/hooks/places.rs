//! How many questions are asked at a time: of a user, so that one user cannot use up the application's workers, and in all.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::HookMetrics;

/// How many questions about one user are asked at a time.
const MAX_PER_USER: usize = 16;

/// How many questions a node asks at a time.
const MAX_IN_ALL: usize = 256;

type Users = Arc<Mutex<FxHashMap<UserId, UserPlaces>>>;

/// The places of all questions that are being asked.
#[derive(Debug)]
pub(super) struct Places {
    users: Users,
    all: Arc<Semaphore>,
    metrics: HookMetrics,
}

/// The places of one user, and how many questions have one or wait for one.
#[derive(Debug)]
struct UserPlaces {
    places: Arc<Semaphore>,
    users: usize,
}

/// The place of one question.
#[derive(Debug)]
pub(super) struct Place {
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    users: Users,
    user: UserId,
}

impl Places {
    pub(super) fn new(metrics: HookMetrics) -> Self {
        Self { users: Users::default(), all: Arc::new(Semaphore::new(MAX_IN_ALL)), metrics }
    }

    /// Waits for a place. Questions of a user get theirs in the order in which they came.
    pub(super) async fn enter(&self, user: &UserId) -> Place {
        let own = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || UserPlaces { places: Arc::new(Semaphore::new(MAX_PER_USER)), users: 0 };
            let entry = users.entry(user.clone()).or_insert_with(fresh);
            entry.users += 1;
            entry.places.clone()
        };
        let mut place = Place { permits: None, users: self.users.clone(), user: user.clone() };
        let waiting = self.metrics.begin_waiting();
        // The semaphores are never closed.
        if let (Ok(own), Ok(any)) = (own.acquire_owned().await, self.all.clone().acquire_owned().await) {
            place.permits = Some((own, any));
        }
        drop(waiting);
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permits = None;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = users.get_mut(&self.user) {
            entry.users -= 1;
            if entry.users == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_user_has_sixteen_places_and_leaves_nothing_behind() {
        let places = Places::new(HookMetrics::default());
        let (alice, bob) = (UserId::parse("alice").expect("an id"), UserId::parse("bob").expect("an id"));
        let mut held = Vec::new();
        for _ in 0..MAX_PER_USER {
            held.push(places.enter(&alice).now_or_never().expect("a place"));
        }
        let mut waiting = Box::pin(places.enter(&alice));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(places.enter(&bob).now_or_never().is_some(), "another user has places");
        drop(held.pop());
        drop(waiting.now_or_never().expect("its place"));
        drop(held);
        assert!(places.users.lock().expect("whole").is_empty());
        assert_eq!(places.all.available_permits(), MAX_IN_ALL);
    }

    #[tokio::test]
    async fn all_users_together_have_256_places() {
        let places = Places::new(HookMetrics::default());
        let user = |n: usize| UserId::parse(&format!("user-{n}")).expect("an id");
        let mut held = Vec::new();
        for n in 0..MAX_IN_ALL {
            held.push(places.enter(&user(n)).await);
        }
        assert!(places.enter(&user(999)).now_or_never().is_none());
        drop(held.pop());
        drop(places.enter(&user(999)).await);
    }
}
