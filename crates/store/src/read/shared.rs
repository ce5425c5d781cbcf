//! Queries of a node about the log that other nodes also write to.

use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};

use super::{Found, Lookups, Range, Reader};
use crate::record::ConversationKey;
use crate::{Excerpt, passages};

/// Further queries of a store whose log other nodes also write to.
pub(crate) trait SharedLookups: Lookups {
    /// The name of a conversation.
    fn name_of(&self, conversation: ConversationKey) -> Found<Option<ConversationId>, Self>;

    /// The last leave or removal of each user, up to an event.
    fn went(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> Found<FxHashMap<UserId, Seq>, Self>;
}

impl<L: SharedLookups> Reader<'_, L> {
    /// A page of the log with the membership changes of each event.
    pub(crate) fn log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Found<Excerpt, L> {
        let name = self.rows.name_of(conversation)?;
        // Read after the first query: that one fixed what this transaction sees.
        let mark = self.mark.load(Ordering::SeqCst);
        let Some(name) = name else { return Ok(Excerpt { mark, events: Vec::new() }) };
        let (most, bytes) = (self.limits.page, self.limits.page_bytes);
        let events = self.events(conversation, &name, &Range { after, upto, most, bytes })?;
        let gone = self.rows.went(conversation, after, &passages::comers(&events))?;
        Ok(Excerpt { mark, events: passages::committed(conversation, events, gone) })
    }
}
