//! Queries of a node about a log to which other nodes also write.

use std::sync::atomic::Ordering;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Seq, UserId};

use super::{LogRange, LookupResult, Lookups, Reader};
use crate::record::ConversationKey;
use crate::{LogExcerpt, joins_and_leaves};

/// The lookups of a store to whose log other nodes also write, besides those of every store.
pub(crate) trait SharedLookups: Lookups {
    /// The name of a conversation.
    fn name_of(&self, conversation: ConversationKey) -> LookupResult<Option<ConversationId>, Self>;

    /// Which events after one and up to another were imported.
    fn imported(
        &self,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> LookupResult<FxHashSet<Seq>, Self>;

    /// The event of each user's last leave or removal, up to an event.
    fn last_leaves(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> LookupResult<FxHashMap<UserId, Seq>, Self>;
}

impl<L: SharedLookups> Reader<'_, L> {
    /// A page of the log with the membership changes of each event.
    pub(crate) fn log(
        &self,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> LookupResult<LogExcerpt, L> {
        let name = self.rows.name_of(conversation)?;
        // The mark is read after the first query, because that query fixed the snapshot of this transaction.
        let mark = self.mark.load(Ordering::SeqCst);
        let Some(name) = name else { return Ok(LogExcerpt { mark, events: Vec::new() }) };
        let (most, bytes) = (self.limits.page, self.limits.page_bytes);
        let events = self.events(conversation, &name, &LogRange { after, upto, most, bytes })?;
        let gone = self.rows.last_leaves(conversation, after, &joins_and_leaves::joiners(&events))?;
        let last = events.last().map_or(after, |event| event.seq);
        let imported = self.rows.imported(conversation, after, last)?;
        let mut events = joins_and_leaves::with_effects(conversation, events, gone);
        for event in &mut events {
            event.is_imported = imported.contains(&event.seq);
        }
        Ok(LogExcerpt { mark, events })
    }
}
