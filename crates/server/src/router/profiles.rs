//! Profiles: which sessions follow which users, and the signals about changes.
//!
//! A change costs what the sessions that follow the user cost, not the user's rooms and their members. Changes of one user within
//! [`Limits::PROFILE_SIGNAL_INTERVAL_MS`] come together.

use std::time::Duration;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{Limits, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::router::registry::{Registry, SessionSlot, VecSet};
use crate::timers::next_expired;

const SIGNAL_INTERVAL: Duration = Duration::from_millis(Limits::PROFILE_SIGNAL_INTERVAL_MS);

/// How long a change is kept after its signal. A session that read the profile before the change, and whose request to follow
/// the user arrives after it, gets the signal then. Reads take less time.
const CHANGE_RETENTION: Duration = Duration::from_secs(5);

/// How many changes of users whom nobody follows are kept at a time. A back end that writes all profiles anew makes more; then a
/// session may miss a change that happens while it asks for the profile.
const MAX_UNFOLLOWED: usize = 10_000;

/// The sessions that follow each user, and the latest change of each profile. A session that follows a user receives a signal
/// when the profile of the user changes.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    followed: FxHashMap<UserId, FollowedUser>,
    changes: FxHashMap<UserId, LatestChange>,
    timers: DelayQueue<UserId>,
}

/// A user whom sessions follow.
#[derive(Debug, Default)]
struct FollowedUser {
    sessions: VecSet<SessionSlot>,
    /// The latest version that this node knows.
    version: u64,
}

/// The latest change of a profile.
#[derive(Debug)]
struct LatestChange {
    version: u64,
    frame: Bytes,
    /// The users who do not receive it, because the user blocks them.
    hidden_from: Vec<UserId>,
    /// When the last signal was sent.
    sent: Instant,
    /// Whether the frame waits to be sent.
    waits: bool,
    /// When to send the frame, or to drop the change.
    timer: delay_queue::Key,
}

impl LatestChange {
    /// Sends the change to a session, unless one of the two users blocks the other.
    fn send(&self, registry: &Registry, user: &UserId, session: SessionSlot) {
        let Some(local) = registry.session(session) else { return };
        if !registry.are_apart(local.user, user, &self.hidden_from) {
            local.outbox.push_signal(&self.frame);
        }
    }
}

impl Profiles {
    /// Adds users, each with the version that the session has, to those whom a session follows. The session follows at most
    /// `most` users, the latest.
    pub(crate) fn follow_users(
        &mut self,
        registry: &mut Registry,
        session: SessionSlot,
        users: &[(UserId, u64)],
        most: usize,
    ) {
        let Some(local) = registry.session_mut(session) else { return };
        let before = std::mem::take(&mut local.following).into_vec();
        let named: FxHashSet<&UserId> = users.iter().map(|(user, _)| user).collect();
        let mut kept: Vec<_> = before.iter().filter(|user| !named.contains(user)).cloned().collect();
        let dropped = kept.split_off(kept.len().min(most.saturating_sub(users.len())));
        self.unfollow(session, &dropped);
        let already: FxHashSet<&UserId> = before.iter().collect();
        for (user, version) in users {
            let followed = self.followed.entry(user.clone()).or_default();
            followed.version = followed.version.max(*version);
            if !already.contains(user) {
                followed.sessions.insert(session);
            }
        }
        let newer: Vec<_> = users
            .iter()
            .filter_map(|(user, version)| Some((user, self.changes.get(user)?, *version)))
            .filter(|(_, change, version)| change.version > *version)
            .map(|(user, change, _)| (user.clone(), change))
            .collect();
        local.following = users.iter().map(|(user, _)| user.clone()).chain(kept).collect();
        for (user, change) in newer {
            change.send(registry, &user, session);
        }
    }

    /// Removes a session from the followers of these users.
    pub(crate) fn unfollow(&mut self, session: SessionSlot, users: &[UserId]) {
        for user in users {
            if let Some(followed) = self.followed.get_mut(user) {
                followed.sessions.remove(session);
                if followed.sessions.is_empty() {
                    self.followed.remove(user);
                }
            }
        }
    }

    /// Sends a changed profile to the sessions that follow the user, unless they have this version or a later one.
    pub(crate) fn send_newer_version(
        &mut self,
        registry: &Registry,
        user: &UserId,
        version: u64,
        (frame, hidden_from): (Bytes, Vec<UserId>),
    ) {
        let now = Instant::now();
        let known = self.followed.get(user).map(|followed| followed.version);
        if known
            .max(self.changes.get(user).map(|change| change.version))
            .is_some_and(|known| known >= version)
        {
            return;
        }
        if let Some(followed) = self.followed.get_mut(user) {
            followed.version = version;
        } else if !self.changes.contains_key(user)
            && (self.changes.len() >= MAX_UNFOLLOWED || !hidden_from.is_empty())
        {
            // A list of blocked users is too large to keep for users whom nobody follows.
            return;
        }
        let Some(change) = self.changes.get_mut(user) else {
            let timer = self.timers.insert_at(user.clone(), now + CHANGE_RETENTION);
            self.changes.insert(
                user.clone(),
                LatestChange { version, frame, hidden_from, sent: now, waits: false, timer },
            );
            return self.send_latest_change(registry, user);
        };
        (change.version, change.frame, change.hidden_from) = (version, frame, hidden_from);
        let due = change.sent + SIGNAL_INTERVAL;
        if change.waits {
            return;
        }
        if now < due {
            change.waits = true;
            self.timers.reset_at(&change.timer, due);
            return;
        }
        (change.sent, change.waits) = (now, false);
        self.timers.reset_at(&change.timer, now + CHANGE_RETENTION);
        self.send_latest_change(registry, user);
    }

    /// Sends the latest change of a user.
    fn send_latest_change(&self, registry: &Registry, user: &UserId) {
        let Some(change) = self.changes.get(user) else { return };
        let followers = self.followed.get(user).into_iter().flat_map(|followed| followed.sessions.iter());
        for session in followers {
            change.send(registry, user, *session);
        }
    }

    /// Waits for the next timer, for ever if there is none.
    pub(crate) async fn next_timer(&mut self) -> UserId {
        next_expired(&mut self.timers).await
    }

    /// Handles the timer of a user: sends the change that waits, or drops the change.
    pub(crate) fn timer_expired(&mut self, registry: &Registry, user: &UserId) {
        let Some(change) = self.changes.get_mut(user) else { return };
        if !change.waits {
            self.changes.remove(user);
            return;
        }
        let now = Instant::now();
        (change.sent, change.waits) = (now, false);
        change.timer = self.timers.insert_at(user.clone(), now + CHANGE_RETENTION);
        self.send_latest_change(registry, user);
    }

    /// Frees memory after the number of sessions has fallen.
    pub(crate) fn shrink(&mut self) {
        self.followed.shrink_to_fit();
        self.changes.shrink_to_fit();
        self.timers.shrink_to_fit();
    }
}
