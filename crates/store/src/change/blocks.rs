//! Whom a user blocks.

use switchboard_protocol::{SetBlock, UserId};

use super::rows::Rows;
use super::{ChangeContext, ChangeResult, OperationError, StoreError};
use crate::access;
use crate::record::{Conversation, UserKey};
use crate::refusal::Refusal;
use crate::{Committed, CommittedBlock};

/// The rows of blocks that a change reads and writes.
pub(crate) trait BlockRows {
    /// An error of the store.
    type Error: StoreError;

    /// How often a user's list has changed. No other transaction can change the list until this one ends.
    fn block_changes(&mut self, user: UserKey) -> Result<u64, Self::Error>;

    /// Whether one user (the first) blocks another one.
    fn does_block(&mut self, user: UserKey, other: UserKey) -> Result<bool, Self::Error>;

    /// How many users a user blocks.
    fn count_blocks(&mut self, user: UserKey) -> Result<u64, Self::Error>;

    /// Adds a user to a list at a time in milliseconds, or removes the user; `changes` is how often the list has changed then.
    fn put_block(
        &mut self,
        user: UserKey,
        other: UserKey,
        at: Option<i64>,
        changes: u64,
    ) -> Result<(), Self::Error>;

    /// The members of a conversation who block a user or whom the user blocks.
    fn members_apart(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
    ) -> Result<Vec<UserId>, Self::Error>;

    /// The users whom a user blocks.
    fn blocked_users(&mut self, user: UserKey) -> Result<Vec<UserId>, Self::Error>;
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Blocks a user, or ends a block. Said again, it changes nothing.
    pub(super) fn set_block(&mut self, command: &SetBlock) -> ChangeResult<R> {
        let SetBlock { user: other, on } = command;
        if other == self.actor {
            return Err(Refusal::bad_field("user", "user: you cannot block yourself").into());
        }
        let key = self.rows.user(other)?.ok_or_else(Refusal::not_found)?;
        let user = self.user_or_new(self.actor)?;
        let changes = self.rows.block_changes(user)?;
        if self.rows.does_block(user, key)? == *on {
            return Ok(Committed::NotAnnounced);
        }
        let most = u64::from(self.rules.limits.blocks);
        if *on && self.rows.count_blocks(user)? >= most {
            let message = format!("user: you block {most} users; unblock one first");
            return Err(Refusal::too_large("user", message).into());
        }
        self.begin_effects()?;
        let version = changes + 1;
        self.rows.put_block(user, key, on.then_some(self.now.as_millis()), version)?;
        Ok(Committed::Block(Box::new(CommittedBlock {
            user: self.actor.clone(),
            other: other.clone(),
            on: *on,
            version,
        })))
    }

    /// Refuses the actor to reach a user who blocks them, in the words of [`access::out_of_reach`]. A back end may.
    pub(super) fn check_not_blocked_by(&mut self, user: &UserId) -> Result<(), OperationError<R::Error>> {
        if self.permissions.is_none() {
            return Ok(());
        }
        let (Some(own), Some(other)) = (self.rows.user(self.actor)?, self.rows.user(user)?) else {
            return Ok(());
        };
        if self.rows.does_block(other, own)? { Err(access::out_of_reach().into()) } else { Ok(()) }
    }
}
