//! Reads rows that were not prefetched, at the moment when they are needed.

use switchboard_protocol::{ConversationId, Seq, UserId};

use super::PostgresRows;
use crate::change::MAX_COMPARED_ROOMS;
use crate::change::dispatch::Prefetch;
use crate::postgres::connect::Error;
use crate::record::{Conversation, ConversationKey, Membership, UserKey};

const SELECT_SHARED: &str = r#"SELECT 1 WHERE EXISTS (SELECT 1 FROM conversations WHERE name = $3)
    OR EXISTS (SELECT 1 FROM (SELECT conversation FROM members
            WHERE "user" = $1 AND until IS NULL AND since > 0 ORDER BY conversation LIMIT $4) room
        JOIN members m ON m.conversation = room.conversation AND m."user" = $2 AND m.until IS NULL)
    OR EXISTS (SELECT 1 FROM (SELECT conversation FROM members
            WHERE "user" = $2 AND until IS NULL AND since > 0 ORDER BY conversation LIMIT $4) room
        JOIN members m ON m.conversation = room.conversation AND m."user" = $1 AND m.until IS NULL)"#;

const IS_RETIRED: &str = "SELECT EXISTS (SELECT FROM retired_ids WHERE name = $1)";

/// Locks users against another id, in the order of their numbers. Other transactions may hold the same lock.
const HOLD_USERS: &str = "SELECT u.id FROM users u WHERE u.name = ANY($1::text[]) ORDER BY u.id FOR SHARE";

/// The statements to prepare on each connection.
pub(super) const STATEMENTS: [&str; 2] = [IS_RETIRED, HOLD_USERS];

impl PostgresRows<'_> {
    pub(super) fn read_conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>, Error> {
        if self.locked_elsewhere.contains(name) {
            return Err(Error::ConversationLocked);
        }
        if !self.conversations.contains_key(name) {
            self.fetch(&Prefetch {
                conversations: [name.clone()].into_iter().collect(),
                ..Prefetch::default()
            })?;
        }
        Ok(self.conversations.get(name).cloned().flatten())
    }

    pub(super) fn read_member(
        &mut self,
        at: (ConversationKey, UserKey),
    ) -> Result<Option<Membership>, Error> {
        if !self.members.contains_key(&at) && !self.is_new(at.0) && !self.is_new_user(at.1) {
            let members = [(self.name_of(at.0)?, self.name_of_user(at.1)?)].into_iter().collect();
            self.fetch(&Prefetch { members, ..Prefetch::default() })?;
        }
        Ok(self.members.get(&at).copied().flatten())
    }

    /// Whether an id without a user is retired.
    pub(super) fn read_retired(&mut self, name: &UserId) -> Result<bool, Error> {
        if let Some(retired) = self.retired.get(name) {
            return Ok(*retired);
        }
        let rows = self.link.run(self.link.rows(IS_RETIRED, &[&name.as_str()]))?;
        let retired = rows.first().map_or(Ok(false), |row| row.try_get(0))?;
        self.retired.insert(name.clone(), retired);
        Ok(retired)
    }

    /// Locks the users among `users` who are stored. Returns `false` if one of them has another id by now.
    pub(super) fn lock_ids(&mut self, users: &[&UserId]) -> Result<bool, Error> {
        let mut names = Vec::new();
        for user in users {
            let key = self.users.get(*user).copied().flatten();
            if key.is_some_and(|key| !self.is_new_user(key)) && !names.contains(&user.as_str()) {
                names.push(user.as_str());
            }
        }
        if names.is_empty() {
            return Ok(true);
        }
        let held = self.link.run(self.link.rows(HOLD_USERS, &[&names]))?;
        Ok(held.len() == names.len())
    }

    /// Whether this transaction creates the conversation.
    pub(super) fn is_new(&self, conversation: ConversationKey) -> bool {
        self.names.get(&conversation).is_some_and(|name| self.new_conversations.contains(name))
    }

    pub(super) fn is_new_user(&self, user: UserKey) -> bool {
        self.user_names.get(&user).is_some_and(|name| self.new_users.contains_key(name))
    }

    /// The name of a conversation. It is known, because conversations are always read by name.
    pub(super) fn name_of(&self, conversation: ConversationKey) -> Result<ConversationId, Error> {
        let name = self.names.get(&conversation).cloned();
        name.ok_or_else(|| Error::Damaged(format!("conversation {} has no name", conversation.0)))
    }

    pub(super) fn name_of_user(&self, user: UserKey) -> Result<UserId, Error> {
        let name = self.user_names.get(&user).cloned();
        name.ok_or_else(|| Error::Damaged(format!("user {} has no name", user.0)))
    }

    /// Whether two users share a conversation: a direct one, or a room in which they were when the transaction began.
    pub(super) fn look_up_shared(
        &self,
        a: UserKey,
        b: UserKey,
        direct: &ConversationId,
    ) -> Result<bool, Error> {
        if self.conversations.get(direct).is_some_and(Option::is_some) {
            return Ok(true);
        }
        let (name, most) = (direct.as_str(), i64::from(MAX_COMPARED_ROOMS));
        let rows = self.link.run(self.link.rows(SELECT_SHARED, &[&a.0, &b.0, &name, &most]))?;
        Ok(!rows.is_empty())
    }

    /// Locks the row of a user until the transaction ends.
    pub(super) fn lock_user(&mut self, user: UserKey) -> Result<(), Error> {
        if !self.locked.contains(&user) && !self.is_new_user(user) {
            let name = self.name_of_user(user)?;
            self.fetch(&Prefetch { users_to_lock: [name].into_iter().collect(), ..Prefetch::default() })?;
        }
        Ok(())
    }

    /// The edits and the deletion of a message.
    pub(super) fn amendments_of(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
    ) -> Result<&mut Vec<Seq>, Error> {
        if !self.amendments.contains_key(&(conversation, target)) && !self.is_new(conversation) {
            let amendments = [(self.name_of(conversation)?, target)].into_iter().collect();
            self.fetch(&Prefetch { amendments, ..Prefetch::default() })?;
        }
        Ok(self.amendments.entry((conversation, target)).or_default())
    }

    /// Reads a user's reaction to a message if it was not prefetched.
    pub(super) fn read_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Result<(), Error> {
        if !self.reactions.is_fetched(conversation, target, emoji, user) && !self.is_new(conversation) {
            let wanted = (self.name_of(conversation)?, target, emoji.into(), self.name_of_user(user)?);
            self.fetch(&Prefetch { reactions: [wanted].into_iter().collect(), ..Prefetch::default() })?;
        }
        Ok(())
    }
}
