//! The cursors of members: `read` and `received`.

use switchboard_protocol::{ErrorCode, Read, Received, Seq, Target};

use super::rows::Rows;
use super::{ActorMembership, ChangeContext, ChangeResult, OperationError};
use crate::access;
use crate::record::{Conversation, Membership};
use crate::refusal::Refusal;
use crate::{Committed, CommittedCursor, CursorKind, MessageCounts};

impl<R: Rows> ChangeContext<'_, R> {
    /// Advances the member's read cursor to the given position, unless it is already there or further. `counts` are the
    /// message counts up to that position, if readers have made them. Without them the writer counts, if the range is
    /// short.
    pub(super) fn move_read_cursor(
        &mut self,
        command: &Read,
        counts: Option<MessageCounts>,
    ) -> ChangeResult<R> {
        let upto = command.upto;
        let ActorMembership { conversation, user, membership } =
            self.check_cursor(&command.conversation, upto)?;
        let mut member = *access::check_member(membership.as_ref())?;
        let moved = upto > member.read;
        if moved {
            let counts = match counts {
                Some(counts) => counts,
                None => (self.rows.message_counts(
                    &conversation,
                    user,
                    &member,
                    upto,
                    self.rules.max_events_counted_by_writer,
                )?)
                .ok_or(OperationError::Uncounted)?,
            };
            member.read_sent = counts.sent;
            member.read_messages = counts.messages;
            member.read = upto;
            // A message that was read was also received.
            member.received = member.received.max(upto);
            self.rows.put_member(conversation.key, user, member);
            if self.rules.tells_reads {
                let entry = serde_json::json!({ "place": (conversation.key, upto) });
                self.do_tell_feed("user.read", Some(user), entry.to_string())?;
            }
        }
        self.committed_cursor(conversation, CursorKind::Read, member.read, moved)
    }

    /// Advances the member's received cursor to the given position, unless it is already there or further.
    pub(super) fn move_received_cursor(&mut self, command: &Received) -> ChangeResult<R> {
        let upto = command.upto;
        let ActorMembership { conversation, user, membership } =
            self.check_cursor(&command.conversation, upto)?;
        let mut member = *access::check_member(membership.as_ref())?;
        let moved = upto > member.received;
        if moved {
            member.received = upto;
            self.rows.put_member(conversation.key, user, member);
        }
        self.committed_cursor(conversation, CursorKind::Received, member.received, moved)
    }

    /// The actor's membership in a conversation; refuses a cursor past the end of its log.
    fn check_cursor(
        &mut self,
        target: &Target,
        upto: Seq,
    ) -> Result<ActorMembership, OperationError<R::Error>> {
        let place = self.find_actor_membership(&target.resolve(self.actor))?;
        access::check_member(place.membership.as_ref())?;
        if upto > place.conversation.head {
            let message = format!("the log ends at {}", place.conversation.head);
            return Err(Refusal::new(ErrorCode::BadCursor, message).into());
        }
        Ok(place)
    }

    fn committed_cursor(
        &mut self,
        conversation: Conversation,
        of: CursorKind,
        upto: Seq,
        moved: bool,
    ) -> ChangeResult<R> {
        let is_private = moved && self.is_one_sided(&conversation)?;
        // Of a larger room only the user's own devices get the signal.
        let is_shared =
            moved && !is_private && conversation.members <= u64::from(self.rules.limits.signal_room);
        let hidden_from = match self.rows.user(self.actor)?.filter(|_| is_shared) {
            Some(user) => self.rows.members_apart(&conversation, user)?,
            None => Vec::new(),
        };
        Ok(Committed::Cursor(CommittedCursor {
            conversation: conversation.key,
            name: conversation.name,
            user: self.actor.clone(),
            kind: of,
            upto,
            has_moved: moved,
            is_private,
            members: conversation.members,
            hidden_from,
        }))
    }
}

/// How many of the member's own messages are up to a cursor: either all of them minus those after the cursor, or those up
/// to the earlier cursor plus those between the two. `own` is the number of own messages in the range that [`shorter_count_range`]
/// gives.
///
/// In a damaged row one count may be less than another. The subtraction saturates, because a panic would end the writer.
pub(crate) fn own_messages_upto(member: &Membership, head: Seq, upto: Seq, own: u64) -> u64 {
    if is_nearer_head(member, head, upto) {
        member.sent.saturating_sub(own)
    } else {
        member.read_sent.saturating_add(own)
    }
}

/// The range over which own messages are counted for a new cursor: after the first event, up to the second. It is the
/// shorter of the two ranges from the cursor to the end of the log and from the old cursor to the new.
pub(crate) fn shorter_count_range(member: &Membership, head: Seq, upto: Seq) -> (Seq, Seq) {
    if is_nearer_head(member, head, upto) { (upto, head) } else { (member.read, upto) }
}

fn is_nearer_head(member: &Membership, head: Seq, upto: Seq) -> bool {
    head.0.saturating_sub(upto.0) <= upto.0.saturating_sub(member.read.0)
}
