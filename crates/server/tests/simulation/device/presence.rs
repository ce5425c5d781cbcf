//! Whose presence a device is told, and whether it may be.
//!
//! The law: presence is told only of those whom this connection has named, and who share a conversation with its user, or are
//! themself. And where no notice is lost: in the end each user of the last list who is connected is told to be online, also where
//! the list is older than the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Asked, Device, Session};
use crate::truth::Held;

/// From this size on a queue is never full of what a calm connection gets, so no signal is dropped.
const ROOMY: u32 = 2_000;

/// From this size on a queue is never full.
const UNBOUNDED: u32 = 262_144;

/// How long it may take, besides the pauses of store and bus, until somebody's being online is known.
const SLACK: Duration = Duration::from_secs(1);

/// What a connection asked and was told about presence.
#[derive(Default)]
pub(super) struct Watching {
    /// All who were named.
    named: BTreeSet<String>,
    /// Those named since of whom nothing has been told: that they share a conversation was looked up when they were.
    unanswered: BTreeSet<String>,
    /// Those of whom an event told that they went from a conversation.
    pub(super) went: BTreeSet<(String, String)>,
    told: BTreeMap<String, bool>,
    /// The last list, and when it was sent.
    list: Option<(Vec<&'static str>, Instant)>,
    /// When the list was sent that counts in the end.
    at_last: Option<Instant>,
}

impl Device {
    /// Names some, everybody or nobody.
    pub(crate) fn watches(&mut self, session: &mut Session) {
        let most = self.world.users.len() + 1;
        let some = self.world.users[..self.chance.below(most)].to_vec();
        let users = if self.chance.once_in(2) { self.world.users.clone() } else { some };
        self.names(session, &users);
    }

    fn names(&mut self, session: &mut Session, users: &[&'static str]) {
        let names = users.iter().map(|user| (*user).to_owned());
        session.watching.named.extend(names.clone());
        session.watching.unanswered.extend(names);
        session.watching.list = Some((users.to_vec(), Instant::now()));
        self.asks(session, json!({"type": "watch", "users": users}), Asked::Other);
    }

    /// When nothing more is said, the device names everybody once more, or relies on its last list.
    pub(super) fn watches_at_last(&mut self, session: &mut Session) {
        if session.watching.at_last.is_some() {
            return;
        }
        if let Some((_, sent)) = session.watching.list
            && self.world.limits.queue >= UNBOUNDED
            && self.chance.once_in(2)
        {
            session.watching.at_last = Some(sent);
            return;
        }
        session.watching.at_last = Some(Instant::now());
        session.watching.told.clear();
        self.names(session, &self.world.users.clone());
    }

    pub(super) fn hears_presence(&mut self, session: &mut Session, presence: &Value) -> Held {
        let user = presence["user"].as_str().unwrap_or_default().to_owned();
        let looked_up = session.watching.unanswered.remove(&user);
        session.watching.told.insert(user.clone(), presence["online"] == true);
        let alone = self.world.cluster.is_none();
        let truth = self.world.truth();
        let may = user == self.user
            || session.watching.named.contains(&user)
                && truth.shared(self.user, &user).iter().any(|name| {
                    let left = session.left.get(name);
                    let i_left = left.is_some_and(|left| !truth.came_after(self.user, name, *left));
                    // Another node may not have placed that event yet.
                    let they_left = alone
                        && session.watching.went.contains(&(name.clone(), user.clone()))
                        && !truth.is_member(&user, name);
                    looked_up || !i_left && !they_left
                });
        drop(truth);
        if may {
            Ok(())
        } else {
            Err(self.broken(&format!("presence of somebody they share nothing with: {presence}")))
        }
    }

    /// An event tells that somebody went from a conversation, or came.
    pub(super) fn notes_going(session: &mut Session, name: &str, event: &Value) {
        let who = |field: &str| (name.to_owned(), event[field].as_str().unwrap_or_default().to_owned());
        match event["type"].as_str().unwrap_or_default() {
            "leave" => drop(session.watching.went.insert(who("from"))),
            "remove" => drop(session.watching.went.insert(who("user"))),
            "join" => drop(session.watching.went.remove(&who("from"))),
            "invite" => drop(session.watching.went.remove(&who("user"))),
            _ => {}
        }
    }

    /// Somebody who is connected, shares a conversation, and was last told to be offline or not at all.
    pub(super) fn misses(&self, session: &Session) -> Option<String> {
        let cluster = self.world.cluster.as_ref()?;
        let patience = SLACK + cluster.presence_takes()?;
        let since = session.watching.at_last?;
        let (list, _) = session.watching.list.as_ref()?;
        let now = Instant::now();
        if self.world.limits.queue < ROOMY
            || since.max(session.reads_from) + patience > now
            // It was told to wait, or refused.
            || session.quiet_until > since
        {
            return None;
        }
        let truth = self.world.truth();
        let online = self.world.connected_since(now - patience);
        let missed = online.into_iter().find(|user| {
            list.contains(user)
                && truth.share_since(self.user, user, since)
                && session.watching.told.get(*user) != Some(&true)
        })?;
        let told = session.watching.told.get(missed);
        Some(format!("{missed} is connected and shares a conversation, but was told to be online: {told:?}"))
    }
}
