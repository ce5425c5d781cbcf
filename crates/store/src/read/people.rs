//! Queries about users: the members of a conversation, whether a user may write there, and who shares a conversation with a
//! user.

use std::ops::ControlFlow;

use rustc_hash::FxHashSet;
use switchboard_protocol::reply::{Member, OkBody};
use switchboard_protocol::{ConversationId, Members, Seq, UserId};

use super::row::{ConversationAccess, PresencePeerRow};
use super::{LookupResult, Lookups, PageResult, Reader};
use crate::access;
use crate::change::MAX_COMPARED_ROOMS;
use crate::record::{ConversationKey, Membership, UserKey};
use crate::refusal::Refusal;
use crate::{PresencePeer, WriteAccess};

/// A key below that of every user: a page after it begins with the first member.
const BEFORE_FIRST_USER: UserKey = UserKey(0);

impl<L: Lookups> Reader<'_, L> {
    /// Answers `members`. A former member gets no list, because they may not see who joined later; who was there before is
    /// in the log.
    pub(super) fn members(&self, user: &UserId, command: &Members) -> PageResult<L> {
        let ConversationAccess { conversation, membership: own, reader } =
            self.find_access(user, &command.conversation.resolve(user))?;
        access::check_member(own.as_ref())?;
        let limit = self.limits.page_size(command.limit) as usize;
        let after = command.after.as_ref();
        let mut after =
            after.map_or(Ok(BEFORE_FIRST_USER), |user| self.key_of_member(user, conversation.key))?;
        let most = limit + 1;
        let (mut keys, mut joined, mut members, mut more) = (Vec::new(), Vec::new(), Vec::new(), false);
        loop {
            let mut rows = 0;
            self.rows.members(conversation.key, after, most, |key, row| {
                (after, rows) = (key, rows + 1);
                let Some((user, m)) = row else { return ControlFlow::Continue(()) };
                let Membership { read, received, since, .. } = m;
                let (role, until) = (m.role_at(self.now), m.silenced_until(self.now));
                let member = Member { user, role, until, read, received, name: None, avatar: None };
                more = members.len() == limit;
                if more {
                    return ControlFlow::Break(());
                }
                keys.push(key);
                joined.push(since);
                members.push(member);
                ControlFlow::Continue(())
            })?;
            // The page is finished, unless it has room although a full set of rows was read. Then some rows were damaged,
            // and the next rows are read.
            if more || rows < most {
                if self.is_one_sided(&conversation.name)? {
                    members.iter_mut().filter(|member| member.user != *user).for_each(hide_cursors);
                }
                let apart = self.rows.either_blocks(reader.key, &keys)?;
                for ((member, key), since) in members.iter_mut().zip(&keys).zip(joined) {
                    if apart.contains(key) {
                        (member.read, member.received) = (since, since);
                    }
                }
                let fits = self.name_members(&keys, &mut members)?;
                more |= fits < members.len();
                members.truncate(fits);
                return Ok(OkBody::Members { conversation: conversation.name, members, more });
            }
        }
    }

    /// Whether a conversation is a direct one in which the users have not both written.
    fn is_one_sided(&self, name: &ConversationId) -> LookupResult<bool, L> {
        if name.peers().is_none_or(|(a, b)| a == b) {
            return Ok(false);
        }
        let mutual = self.rows.are_mutual(std::slice::from_ref(name))?;
        Ok(!mutual.first().copied().unwrap_or_default())
    }

    /// The key of a present or former member. Other users are not looked up, because a user must not find out who exists.
    fn key_of_member(&self, user: &UserId, conversation: ConversationKey) -> LookupResult<UserKey, L> {
        let known = self.rows.find_user(user)?.map(|known| known.key);
        let view = known.map(|key| self.rows.access_by_key(key, conversation)).transpose()?.flatten();
        let member = known.filter(|_| view.is_some_and(|view| view.membership.is_some()));
        Ok(member.ok_or_else(|| Refusal::bad_field("after", "after: name the last member of a page"))?)
    }

    /// Checks that `user` may write in a conversation, and returns how many members it has.
    pub(crate) fn write_access(&self, user: &UserId, name: &ConversationId) -> LookupResult<WriteAccess, L> {
        let ConversationAccess { conversation, membership, reader } = self.find_access(user, name)?;
        access::check_writer(membership.as_ref(), self.now)?;
        // A signal of a larger room reaches the user's own devices only.
        let hidden_from = if conversation.members <= u64::from(self.limits.signal_room) {
            self.rows.members_apart(conversation.key, reader.key)?
        } else {
            Vec::new()
        };
        Ok(WriteAccess { conversation: conversation.key, members: conversation.members, hidden_from })
    }

    /// The users among `others` who share a room with `user`, or a direct conversation in which both have written, including `user`.
    /// If two users are each in more than [`MAX_COMPARED_ROOMS`] rooms, a shared room is found only if it is one of the oldest rooms of
    /// either.
    pub(crate) fn presence_peers(
        &self,
        user: &UserId,
        others: &[UserId],
    ) -> LookupResult<Vec<PresencePeer>, L> {
        let Some(own) = self.rows.find_user(user)?.map(|known| known.key) else { return Ok(Vec::new()) };
        let others = self.without_apart(own, self.rows.presence_peer_rows(others)?)?;
        let shared = self.sharing_users(own, user, &others, Direct::Mutual)?;
        let found = others.into_iter().filter(|other| shared.contains(&other.key));
        Ok(found.map(|other| PresencePeer { user: other.name, last_seen: other.last_seen }).collect())
    }

    /// The users among `others` who neither block a user nor are blocked by the user.
    pub(super) fn without_apart(
        &self,
        own: UserKey,
        others: Vec<PresencePeerRow>,
    ) -> LookupResult<Vec<PresencePeerRow>, L> {
        let keys: Vec<_> = others.iter().map(|other| other.key).collect();
        let apart = self.rows.either_blocks(own, &keys)?;
        Ok(others.into_iter().filter(|other| !apart.contains(&other.key)).collect())
    }

    /// The keys of the users among `others` who share a conversation with `user`, including the user's own.
    pub(super) fn sharing_users(
        &self,
        own: UserKey,
        user: &UserId,
        others: &[PresencePeerRow],
        direct_counts: Direct,
    ) -> LookupResult<FxHashSet<UserKey>, L> {
        let mut shared = FxHashSet::from_iter([own]);
        // A direct conversation never ends, because its two members cannot leave it.
        let open = not_yet_shared(others, &shared);
        let direct: Vec<_> = open.iter().map(|other| ConversationId::direct(user, &other.name)).collect();
        let do_share = match direct_counts {
            Direct::Any => self.rows.conversations_exist(&direct)?,
            Direct::Mutual => self.rows.are_mutual(&direct)?,
        };
        add_sharing_users(&mut shared, open.iter().map(|other| other.key), &do_share);
        let keys: Vec<_> = not_yet_shared(others, &shared).iter().map(|other| other.key).collect();
        if !keys.is_empty() {
            let pairs: Vec<_> = keys.iter().map(|key| (own, *key)).collect();
            add_sharing_users(&mut shared, keys, &self.rows.share_a_room(&pairs, MAX_COMPARED_ROOMS)?);
        }
        let keys: Vec<_> = not_yet_shared(others, &shared).iter().map(|other| other.key).collect();
        // If all rooms of the user were compared, the opposite comparison would find nothing more.
        if !keys.is_empty() && self.rows.count_rooms(own, MAX_COMPARED_ROOMS + 1)? > MAX_COMPARED_ROOMS {
            let pairs: Vec<_> = keys.iter().map(|key| (*key, own)).collect();
            add_sharing_users(&mut shared, keys, &self.rows.share_a_room(&pairs, MAX_COMPARED_ROOMS)?);
        }
        Ok(shared)
    }
}

/// Shows a member of a direct conversation as at its beginning.
fn hide_cursors(member: &mut Member) {
    (member.read, member.received) = (Seq(0), Seq(0));
}

/// Which direct conversations count as shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direct {
    /// All of them.
    Any,
    /// Those in which both users have written. One message must not be enough to watch its recipient.
    Mutual,
}

/// The users who are not yet found to share a conversation.
fn not_yet_shared<'a>(
    others: &'a [PresencePeerRow],
    shared: &FxHashSet<UserKey>,
) -> Vec<&'a PresencePeerRow> {
    others.iter().filter(|other| !shared.contains(&other.key)).collect()
}

/// Adds to `shared` the users among `others` for whom `do_share` is true.
fn add_sharing_users(
    shared: &mut FxHashSet<UserKey>,
    others: impl IntoIterator<Item = UserKey>,
    do_share: &[bool],
) {
    shared.extend(others.into_iter().zip(do_share).filter(|(_, shares)| **shares).map(|(other, _)| other));
}
