//! What readers ask about people: members, standing, acquaintances.

use std::ops::ControlFlow;

use rustc_hash::FxHashSet;
use switchboard_protocol::reply::{Member, OkBody};
use switchboard_protocol::{ConversationId, Members, UserId};

use super::fold::json_bytes;
use super::row::{Acquainted, View};
use super::{Found, Lookups, Page, Reader, Room};
use crate::access;
use crate::record::{ConversationKey, UserKey};
use crate::refusal::Refusal;
use crate::{Acquaintance, Standing};

/// Rooms of a user that a read compares to find out whether two users share one. One `watch` reads at most this many rooms
/// for each user that it names, and twice as many if the watching user is in more rooms.
const MAX_COMPARED_ROOMS: u32 = 100;

/// A number below that of every user: a page after it begins with the first member.
const BEFORE_FIRST_USER: UserKey = UserKey(0);

impl<L: Lookups> Reader<'_, L> {
    /// `members`. A user who left gets no members here: they may not see who came later, and who
    /// was there before is in the log.
    pub(super) fn members(&self, user: &UserId, command: &Members) -> Page<L> {
        let View { conversation, membership: own } = self.view(user, &command.conversation.resolve(user))?;
        access::check_member(own.as_ref())?;
        let limit = self.limits.page_size(command.limit) as usize;
        let after = command.after.as_ref();
        let mut after =
            after.map_or(Ok(BEFORE_FIRST_USER), |user| self.number_of_member(user, conversation.key))?;
        let most = limit + 1;
        let mut room = Room(self.limits.page_bytes as usize);
        let (mut members, mut more) = (Vec::new(), false);
        loop {
            let mut rows = 0;
            self.rows.members(conversation.key, after, most, |key, row| {
                (after, rows) = (key, rows + 1);
                let Some((user, m)) = row else { return ControlFlow::Continue(()) };
                let member = Member { user, role: m.role, read: m.read, received: m.received };
                more = members.len() == limit || !room.takes(json_bytes(&member));
                if more {
                    return ControlFlow::Break(());
                }
                members.push(member);
                ControlFlow::Continue(())
            })?;
            // Among those were damaged ones, or there are no more.
            if more || rows < most {
                return Ok(OkBody::Members { conversation: conversation.name, members, more });
            }
        }
    }

    /// The number of a present or former member. Nobody else's is looked for: that a user exists is not for others
    /// to find out.
    fn number_of_member(&self, user: &UserId, conversation: ConversationKey) -> Found<UserKey, L> {
        let known = self.rows.known(user)?.map(|known| known.key);
        let view = known.map(|key| self.rows.view_of(key, conversation)).transpose()?.flatten();
        let member = known.filter(|_| view.is_some_and(|view| view.membership.is_some()));
        Ok(member.ok_or_else(|| Refusal::bad_field("after", "after: name the last member of a page"))?)
    }

    /// Whether `user` may write there.
    pub(crate) fn standing(&self, user: &UserId, name: &ConversationId) -> Found<Standing, L> {
        let View { conversation, membership } = self.view(user, name)?;
        access::check_writer(membership.as_ref())?;
        Ok(Standing { conversation: conversation.key, members: conversation.members })
    }

    /// Those of `others` that share a conversation with `user`, who counts among them. Two who both are in more than
    /// [`MAX_COMPARED_ROOMS`] rooms share one if one of the oldest of either is one of the other's.
    pub(crate) fn acquaintances(&self, user: &UserId, others: &[UserId]) -> Found<Vec<Acquaintance>, L> {
        let Some(own) = self.rows.known(user)?.map(|known| known.key) else { return Ok(Vec::new()) };
        let others = self.rows.acquainted(others)?;
        let mut shared = FxHashSet::from_iter([own]);
        // A direct conversation lasts for ever, because its two members cannot leave it.
        let open = strangers(&others, &shared);
        let direct: Vec<_> = open.iter().map(|other| ConversationId::direct(user, &other.name)).collect();
        meet(&mut shared, open.iter().map(|other| other.key), &self.rows.are_there(&direct)?);
        let keys: Vec<_> = strangers(&others, &shared).iter().map(|other| other.key).collect();
        if !keys.is_empty() {
            let pairs: Vec<_> = keys.iter().map(|key| (own, *key)).collect();
            meet(&mut shared, keys, &self.rows.share_a_room(&pairs, MAX_COMPARED_ROOMS)?);
        }
        let keys: Vec<_> = strangers(&others, &shared).iter().map(|other| other.key).collect();
        // Where all rooms of the user were compared, there is no need to look from the other side.
        if !keys.is_empty() && self.rows.count_rooms(own, MAX_COMPARED_ROOMS + 1)? > MAX_COMPARED_ROOMS {
            let pairs: Vec<_> = keys.iter().map(|key| (*key, own)).collect();
            meet(&mut shared, keys, &self.rows.share_a_room(&pairs, MAX_COMPARED_ROOMS)?);
        }
        let found = others.into_iter().filter(|other| shared.contains(&other.key));
        Ok(found.map(|other| Acquaintance { user: other.name, last_seen: other.last_seen }).collect())
    }
}

/// Those who are not known yet to share a conversation.
fn strangers<'a>(others: &'a [Acquainted], shared: &FxHashSet<UserKey>) -> Vec<&'a Acquainted> {
    others.iter().filter(|other| !shared.contains(&other.key)).collect()
}

/// Adds those of `others` who do.
fn meet(shared: &mut FxHashSet<UserKey>, others: impl IntoIterator<Item = UserKey>, do_share: &[bool]) {
    shared.extend(others.into_iter().zip(do_share).filter(|(_, shares)| **shares).map(|(other, _)| other));
}
