//! One question at a time for each user and idempotency key: a retry waits for the decision about the first request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use switchboard_protocol::{Key, Send, UserId};
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

use switchboard_store::Change;
use switchboard_store::refusal::Refusal;

type UserKey = (UserId, Key);

/// The decision about a request; `None` until there is one.
type Decided = Option<(Box<Send>, Change)>;

/// The keys that are being asked about.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(Arc<Mutex<FxHashMap<UserKey, Slot>>>);

/// A key, and how many requests use it at present.
#[derive(Debug, Default)]
struct Slot {
    decided: Arc<Turns<Decided>>,
    users: usize,
}

/// A request's use of its key. A retry shares the decision until the last use is dropped.
#[derive(Debug)]
pub(crate) struct KeyTurn {
    keys: Keys,
    key: UserKey,
    /// The turn to ask; `None` once there is a decision.
    decided: Option<OwnedMutexGuard<Decided>>,
}

impl Keys {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<UserKey, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to ask about a key.
    pub(super) async fn enter(&self, user: &UserId, key: &Key) -> KeyTurn {
        let key = (user.clone(), key.clone());
        let decided = {
            let mut slots = self.lock();
            let slot = slots.entry(key.clone()).or_default();
            slot.users += 1;
            slot.decided.clone()
        };
        let mut turn = KeyTurn { keys: self.clone(), key, decided: None };
        turn.decided = Some(decided.lock_owned().await);
        turn
    }
}

impl KeyTurn {
    /// The decision about an equal request that was asked about before. Another request is to come again, if the first one is
    /// allowed and not submitted yet: then the store will know its key.
    pub(super) fn decision_about(&self, change: &Change) -> Option<Change> {
        let (request, decision) = self.decided.as_ref()?.as_ref()?;
        match (change, decision) {
            (Change::Send(send), decision) if *send == **request => Some(decision.clone()),
            (_, Change::Refused(_)) => None,
            _ => Some(Change::Refused(Refusal::unavailable())),
        }
    }

    /// Records the decision, and lets the next request have its turn.
    pub(super) fn decide(mut self, request: Change, decision: &Change) -> Self {
        if let (Some(decided), Change::Send(send)) = (&mut self.decided, request) {
            **decided = Some((Box::new(send), decision.clone()));
        }
        self.leave()
    }

    /// Lets the next request have its turn.
    pub(super) fn leave(mut self) -> Self {
        self.decided = None;
        self
    }
}

impl Drop for KeyTurn {
    fn drop(&mut self) {
        let mut slots = self.keys.lock();
        if let Some(slot) = slots.get_mut(&self.key) {
            slot.users -= 1;
            if slot.users == 0 {
                slots.remove(&self.key);
            }
        }
    }
}
