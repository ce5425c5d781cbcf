//! The reactions that a batch reads and changes.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use crate::record::{ConversationKey, UserKey};

/// A possible reaction: a user, an emoji and a message.
pub(super) type At = (ConversationKey, Seq, Box<str>, UserKey);

/// A user's latest reaction with an emoji: the event that set it, and the event that removed it.
type Latest = Option<(Seq, Option<Seq>)>;

#[derive(Debug, Default)]
pub(super) struct Reactions {
    latest: FxHashMap<At, Latest>,
    /// The number of current reactions of each message.
    standing: FxHashMap<(ConversationKey, Seq), u64>,
    /// Rows to write: which event set the reaction, and which event removed it, if any.
    put: BTreeMap<(At, Seq), Option<Seq>>,
    /// Messages of which this transaction removed a reaction.
    taken: BTreeSet<(ConversationKey, Seq)>,
    /// Messages whose reactions this transaction deletes.
    deleted: BTreeSet<(ConversationKey, Seq)>,
}

impl Reactions {
    /// Adds a reaction as the database has it.
    pub(super) fn add_stored(&mut self, at: At, latest: Latest, standing: u64) {
        self.standing.entry((at.0, at.1)).or_insert(standing);
        self.latest.entry(at).or_insert(latest);
    }

    pub(super) fn knows(
        &self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> bool {
        self.deleted.contains(&(conversation, target))
            || self.latest.contains_key(&(conversation, target, emoji.into(), user))
    }

    /// The event that last set or removed a reaction, and whether the reaction is set.
    pub(super) fn latest(
        &self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Option<(Seq, bool)> {
        let latest = *self.latest.get(&(conversation, target, emoji.into(), user))?;
        latest.map(|(since, until)| (until.unwrap_or(since), until.is_none()))
    }

    pub(super) fn standing(&self, conversation: ConversationKey, target: Seq) -> u64 {
        self.standing.get(&(conversation, target)).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, at: At, by: Seq) {
        *self.standing.entry((at.0, at.1)).or_default() += 1;
        self.latest.insert(at.clone(), Some((by, None)));
        self.put.insert((at, by), None);
    }

    pub(super) fn take_back(&mut self, at: At, since: Seq, by: Seq) {
        let message = (at.0, at.1);
        let standing = self.standing.entry(message).or_default();
        *standing = standing.saturating_sub(1);
        self.taken.insert(message);
        self.latest.insert(at.clone(), Some((since, Some(by))));
        self.put.insert((at, since), Some(by));
    }

    pub(super) fn delete(&mut self, conversation: ConversationKey, target: Seq) {
        let message = (conversation, target);
        self.standing.insert(message, 0);
        self.latest.retain(|at, _| (at.0, at.1) != message);
        self.put.retain(|(at, _), _| (at.0, at.1) != message);
        self.taken.remove(&message);
        self.deleted.insert(message);
    }

    pub(super) fn put(&self) -> &BTreeMap<(At, Seq), Option<Seq>> {
        &self.put
    }

    pub(super) fn taken(&self) -> &BTreeSet<(ConversationKey, Seq)> {
        &self.taken
    }

    pub(super) fn deleted(&self) -> &BTreeSet<(ConversationKey, Seq)> {
        &self.deleted
    }
}
