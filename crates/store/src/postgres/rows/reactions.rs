//! The reactions that a batch reads and changes.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use switchboard_protocol::Seq;

use crate::record::{ConversationKey, UserKey};

/// A possible reaction: a user, an emoji and a message.
pub(super) type ReactionKey = (ConversationKey, Seq, Box<str>, UserKey);

/// A user's latest reaction with an emoji: the event that set it, and the event that removed it.
type LatestState = Option<(Seq, Option<Seq>)>;

#[derive(Debug, Default)]
pub(super) struct Reactions {
    latest: FxHashMap<ReactionKey, LatestState>,
    /// The number of current reactions of each message.
    current_counts: FxHashMap<(ConversationKey, Seq), u64>,
    /// Rows to write: which event set the reaction, and which event removed it, if any.
    rows_to_write: BTreeMap<(ReactionKey, Seq), Option<Seq>>,
    /// Messages of which this transaction removed a reaction.
    messages_with_removals: BTreeSet<(ConversationKey, Seq)>,
    /// Messages whose reactions this transaction deletes.
    messages_to_clear: BTreeSet<(ConversationKey, Seq)>,
}

impl Reactions {
    /// Adds a reaction as the database has it.
    pub(super) fn add_stored(&mut self, at: ReactionKey, latest: LatestState, standing: u64) {
        self.current_counts.entry((at.0, at.1)).or_insert(standing);
        self.latest.entry(at).or_insert(latest);
    }

    pub(super) fn is_fetched(
        &self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> bool {
        self.messages_to_clear.contains(&(conversation, target))
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

    pub(super) fn current_count(&self, conversation: ConversationKey, target: Seq) -> u64 {
        self.current_counts.get(&(conversation, target)).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, at: ReactionKey, by: Seq) {
        *self.current_counts.entry((at.0, at.1)).or_default() += 1;
        self.latest.insert(at.clone(), Some((by, None)));
        self.rows_to_write.insert((at, by), None);
    }

    pub(super) fn take_back(&mut self, at: ReactionKey, since: Seq, by: Seq) {
        let message = (at.0, at.1);
        let standing = self.current_counts.entry(message).or_default();
        *standing = standing.saturating_sub(1);
        self.messages_with_removals.insert(message);
        self.latest.insert(at.clone(), Some((since, Some(by))));
        self.rows_to_write.insert((at, since), Some(by));
    }

    pub(super) fn delete(&mut self, conversation: ConversationKey, target: Seq) {
        let message = (conversation, target);
        self.current_counts.insert(message, 0);
        self.latest.retain(|at, _| (at.0, at.1) != message);
        self.rows_to_write.retain(|(at, _), _| (at.0, at.1) != message);
        self.messages_with_removals.remove(&message);
        self.messages_to_clear.insert(message);
    }

    pub(super) fn rows_to_write(&self) -> &BTreeMap<(ReactionKey, Seq), Option<Seq>> {
        &self.rows_to_write
    }

    pub(super) fn messages_with_removals(&self) -> &BTreeSet<(ConversationKey, Seq)> {
        &self.messages_with_removals
    }

    pub(super) fn messages_to_clear(&self) -> &BTreeSet<(ConversationKey, Seq)> {
        &self.messages_to_clear
    }
}
