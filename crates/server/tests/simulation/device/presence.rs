//! Checks the presence that a device receives.
//!
//! The law: a connection receives presence of its own user, and of users whom it has named in `watch` and who share a conversation
//! with its user; of no others. If no notice is lost, it finally learns that a user in its last `watch` is online if that user is
//! connected, even if the user connected after the `watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Device, PendingCommand, Session};
use crate::truth::LawResult;

/// From this `limits.queue` (in bytes) on, the queue of an idle connection is never full, so no signal is dropped.
const MIN_QUEUE_WITHOUT_DROPS: u32 = 2_000;

/// From this `limits.queue` (in bytes) on, no queue is ever full.
const NEVER_FULL_QUEUE: u32 = 262_144;

/// How long a presence signal may take, not counting the pauses of the store and the bus.
const PRESENCE_SLACK: Duration = Duration::from_secs(1);

/// What a connection has requested and received about presence.
#[derive(Default)]
pub(super) struct WatchState {
    /// All users that the connection has named in `watch`.
    watched_users: BTreeSet<String>,
    /// Users named in the last `watch` whose presence has not arrived yet. The server checked at the time of that `watch` whether
    /// they share a conversation.
    awaiting_state: BTreeSet<String>,
    /// Conversation and user of each leave or removal that the device knows from the events that it received.
    pub(super) ended_memberships: BTreeSet<(String, String)>,
    /// The last received state of each user: true for online.
    last_states: BTreeMap<String, bool>,
    /// The users named in the last `watch`, and when it was sent.
    last_watched_users: Option<(Vec<&'static str>, Instant)>,
    /// When the `watch` was sent whose answers the final check examines.
    final_list_at: Option<Instant>,
}

impl Device {
    /// Sends `watch` with a random list of users, which may be all users or none.
    pub(crate) fn watch_random_users(&mut self, session: &mut Session) {
        let most = self.world.users.len() + 1;
        let some = self.world.users[..self.chance.random_below(most)].to_vec();
        let users = if self.chance.once_in(2) { self.world.users.clone() } else { some };
        self.send_watch_list(session, &users);
    }

    fn send_watch_list(&mut self, session: &mut Session, users: &[&'static str]) {
        let names = users.iter().map(|user| (*user).to_owned());
        session.watching.watched_users.extend(names.clone());
        session.watching.awaiting_state.extend(names);
        session.watching.last_watched_users = Some((users.to_vec(), Instant::now()));
        self.send_command(session, json!({"type": "watch", "users": users}), PendingCommand::Other);
    }

    /// When the users send no more commands, sends a `watch` for all users, or relies on the answers to the last `watch`.
    pub(super) fn send_final_list(&mut self, session: &mut Session) {
        if session.watching.final_list_at.is_some() {
            return;
        }
        if let Some((_, sent)) = session.watching.last_watched_users
            && self.world.limits.queue >= NEVER_FULL_QUEUE
            && self.chance.once_in(2)
        {
            session.watching.final_list_at = Some(sent);
            return;
        }
        session.watching.final_list_at = Some(Instant::now());
        session.watching.last_states.clear();
        self.send_watch_list(session, &self.world.users.clone());
    }

    pub(super) fn receives_presence(&mut self, session: &mut Session, presence: &Value) -> LawResult {
        let user = presence["user"].as_str().unwrap_or_default().to_owned();
        let looked_up = session.watching.awaiting_state.remove(&user);
        session.watching.last_states.insert(user.clone(), presence["online"] == true);
        let alone = self.world.cluster.is_none();
        let truth = self.world.lock_model();
        let may = user == self.user
            || session.watching.watched_users.contains(&user)
                && truth.shared_conversations(self.user, &user).iter().any(|name| {
                    let left = session.left_at.get(name);
                    let i_left = left.is_some_and(|left| !truth.rejoined_after(self.user, name, *left));
                    // The other user's node may not have applied the leave event yet.
                    let they_left = alone
                        && session.watching.ended_memberships.contains(&(name.clone(), user.clone()))
                        && !truth.is_member(&user, name);
                    looked_up || !i_left && !they_left
                });
        drop(truth);
        if may {
            Ok(())
        } else {
            Err(self
                .report_violation(&format!("presence of a user without a shared conversation: {presence}")))
        }
    }

    /// Records from an event that a user left or joined a conversation.
    pub(super) fn record_leave(session: &mut Session, name: &str, event: &Value) {
        let who = |field: &str| (name.to_owned(), event[field].as_str().unwrap_or_default().to_owned());
        match event["type"].as_str().unwrap_or_default() {
            "leave" => drop(session.watching.ended_memberships.insert(who("from"))),
            "remove" => drop(session.watching.ended_memberships.insert(who("user"))),
            "join" => drop(session.watching.ended_memberships.remove(&who("from"))),
            "invite" => drop(session.watching.ended_memberships.remove(&who("user"))),
            _ => {}
        }
    }

    /// Finds a connected user with a shared conversation who is offline or unknown according to the last received presence.
    pub(super) fn missing_presence(&self, session: &Session) -> Option<String> {
        let cluster = self.world.cluster.as_ref()?;
        let patience = PRESENCE_SLACK + cluster.max_presence_delay()?;
        let since = session.watching.final_list_at?;
        let (list, _) = session.watching.last_watched_users.as_ref()?;
        let now = Instant::now();
        if self.world.limits.queue < MIN_QUEUE_WITHOUT_DROPS
            || since.max(session.reads_from) + patience > now
            // The server refused commands after the list was sent, and asked the device to wait.
            || session.no_answer_until > since
        {
            return None;
        }
        let truth = self.world.lock_model();
        let online = self.world.connected_since(now - patience);
        let missed = online.into_iter().find(|user| {
            list.contains(user)
                && truth.have_shared_room_since(self.user, user, since)
                && session.watching.last_states.get(*user) != Some(&true)
        })?;
        let state = session.watching.last_states.get(missed);
        Some(format!("{missed} is connected and shares a conversation, but its last presence is {state:?}"))
    }
}
