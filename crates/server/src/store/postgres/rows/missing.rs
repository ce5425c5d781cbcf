//! What was not read ahead, read when it is asked for.

use switchboard_protocol::{ConversationId, Seq, UserId};

use super::PostgresRows;
use super::wanted::Wanted;
use crate::record::{ConversationKey, UserKey};
use crate::store::postgres::connect::Error;

impl PostgresRows<'_> {
    /// Whether there is no such conversation for anybody else.
    pub(super) fn is_new(&self, conversation: ConversationKey) -> bool {
        self.names.get(&conversation).is_some_and(|name| self.new_conversations.contains(name))
    }

    pub(super) fn is_new_user(&self, user: UserKey) -> bool {
        self.user_names.get(&user).is_some_and(|name| self.new_users.contains_key(name))
    }

    /// The name of a conversation that was read by its name, as all are.
    pub(super) fn name_of(&self, conversation: ConversationKey) -> Result<ConversationId, Error> {
        let name = self.names.get(&conversation).cloned();
        name.ok_or_else(|| Error::Damaged(format!("conversation {} has no name", conversation.0)))
    }

    pub(super) fn name_of_user(&self, user: UserKey) -> Result<UserId, Error> {
        let name = self.user_names.get(&user).cloned();
        name.ok_or_else(|| Error::Damaged(format!("user {} has no name", user.0)))
    }

    /// The row of a user is nobody else's from here on.
    pub(super) fn lock(&mut self, user: UserKey) -> Result<(), Error> {
        if !self.locked.contains(&user) && !self.is_new_user(user) {
            let name = self.name_of_user(user)?;
            self.fetch(&Wanted { locked: [name].into_iter().collect(), ..Wanted::default() })?;
        }
        Ok(())
    }

    /// The edits of a message and its deletion.
    pub(super) fn amendments_of(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<&mut Vec<Seq>, Error> {
        if !self.amendments.contains_key(&(conversation, target)) && !self.is_new(conversation) {
            let amendments = [(self.name_of(conversation)?, target)].into_iter().collect();
            self.fetch(&Wanted { amendments, ..Wanted::default() })?;
        }
        Ok(self.amendments.entry((conversation, target)).or_default())
    }

    /// Reads a reaction of somebody's to a message, if it was not read ahead.
    pub(super) fn read_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Result<(), Error> {
        if !self.reactions.knows(conversation, target, emoji, user) && !self.is_new(conversation) {
            let wanted = (self.name_of(conversation)?, target, emoji.into(), self.name_of_user(user)?);
            self.fetch(&Wanted { reactions: [wanted].into_iter().collect(), ..Wanted::default() })?;
        }
        Ok(())
    }
}
