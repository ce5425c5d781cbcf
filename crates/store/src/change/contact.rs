//! Whom a user may reach, and what the two users of a direct conversation learn of each other.

use switchboard_protocol::{ConversationId, UserId};

use super::rows::Rows;
use super::{ChangeContext, OperationError};
use crate::access::{self, Reach};
use crate::record::Conversation;
use crate::refusal::Refusal;

/// The most users of one command for whom the writer looks whether they share a conversation with its sender. Each takes some 100 µs.
const MAX_COMPARED_USERS: usize = 100;

/// The most rooms of a user that the writer compares to find out whether two users share one.
pub(crate) const MAX_COMPARED_ROOMS: u32 = 100;

impl<R: Rows> ChangeContext<'_, R> {
    /// Refuses a user whom the actor may not be the first to reach, whether or not there is such a user.
    pub(super) fn check_contact(&mut self, user: &UserId) -> Result<(), OperationError<R::Error>> {
        self.check_contacts([user].into_iter())
    }

    /// Like [`Self::check_contact`], for several users.
    pub(super) fn check_contacts<'u>(
        &mut self,
        users: impl Iterator<Item = &'u UserId>,
    ) -> Result<(), OperationError<R::Error>> {
        let Some(permissions) = self.permissions else { return Ok(()) };
        let actor = self.actor;
        let mut compared = 0;
        for user in users.filter(|user| *user != actor) {
            let may = match access::reach(permissions, user) {
                Reach::Yes => true,
                Reach::No => false,
                Reach::IfShared => {
                    compared += 1;
                    if compared > MAX_COMPARED_USERS {
                        let message = format!("members: at most {MAX_COMPARED_USERS} at a time");
                        return Err(Refusal::too_large("members", message).into());
                    }
                    self.shares_a_conversation(user)?
                }
            };
            if !may {
                return Err(access::out_of_reach().into());
            }
        }
        Ok(())
    }

    pub(super) fn shares_a_conversation(&mut self, other: &UserId) -> Result<bool, OperationError<R::Error>> {
        let (Some(own), Some(key)) = (self.rows.user(self.actor)?, self.rows.user(other)?) else {
            return Ok(false);
        };
        let direct = ConversationId::direct(self.actor, other);
        Ok(self.rows.share_a_conversation(own, key, &direct)?)
    }

    /// Whether a conversation is a direct one in which the users have not both written.
    pub(super) fn is_one_sided(
        &mut self,
        conversation: &Conversation,
    ) -> Result<bool, OperationError<R::Error>> {
        let Some((a, b)) = conversation.name.peers().filter(|(a, b)| a != b) else { return Ok(false) };
        for name in [a, b] {
            let user = self.rows.user(&name)?;
            let member = user.map(|user| self.rows.member(conversation.key, user)).transpose()?.flatten();
            if member.is_none_or(|member| member.sent == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
