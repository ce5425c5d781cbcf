//! The lists of all users and rooms, and what users have not read. All users and rooms are examined by number. That is done in
//! steps, each a separate read, so that a list delays no other read for long.

use rustc_hash::FxHashMap;
use serde::Serialize;
use switchboard_protocol::{
    Limits, ListedBan, ListedRoom, ListedUser, Seq, Timestamp, Title, UserId, UserUnread,
};

use super::feed::FeedLookups;
use super::fold::{self, json_bytes};
use super::{LookupResult, PageBudget, Reader};
use crate::Activity;
use crate::ban::NewBan;
use crate::grant::UserPattern;
use crate::listing::{ListBans, ListRooms, ListUsers, Listing};
use crate::profile::StoredProfile;
use crate::record::{Answer, Conversation, ConversationKey, UserKey};
use crate::refusal::Refusal;
use crate::report::{Field, Fields};

/// The most rows that one step examines: some 5 ms.
const ROWS_PER_STEP: usize = 1_000;

/// The most members that one step looks through for one whom the key sees. A step ends with the room that exceeds it.
const MAX_EXAMINED_MEMBERS: u64 = 100_000;

/// A user in a list.
pub(crate) struct UserListRow {
    pub(crate) key: UserKey,
    /// The id; `None` if the row is damaged.
    pub(crate) name: Option<UserId>,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) profile: Option<StoredProfile>,
}

/// A ban in a list.
pub(crate) struct BanRow {
    pub(crate) user: UserKey,
    /// The user's id; `None` if the row is damaged.
    pub(crate) name: Option<UserId>,
    pub(crate) new: NewBan,
    pub(crate) at: Timestamp,
}

/// The lookups that lists need besides those of all reads.
pub(crate) trait ListLookups: FeedLookups {
    /// At most `most` users with a key above `after`, in the order of the keys.
    fn users_after(&self, after: UserKey, most: usize) -> LookupResult<Vec<UserListRow>, Self>;

    /// At most `most` bans from the installation of users with a key above `after`, in the order of the keys.
    fn bans_after(&self, after: UserKey, most: usize) -> LookupResult<Vec<BanRow>, Self>;

    /// Runs a statement about reports.
    fn report_rows(&self, sql: &'static str, values: &[Field]) -> LookupResult<Vec<Fields>, Self>;

    /// At most `most` conversations with a key above `after`, in the order of the keys; `None` for one that cannot be read.
    fn conversations_after(
        &self,
        after: ConversationKey,
        most: usize,
    ) -> LookupResult<Vec<(ConversationKey, Option<Conversation>)>, Self>;
}

/// A list that is being made, between two steps.
#[derive(Debug, Clone)]
pub(crate) struct ListingInProgress<T> {
    listing: Listing<T>,
    examined: usize,
    bytes: usize,
    is_complete: bool,
}

impl<T: Serialize> ListingInProgress<T> {
    pub(super) fn new(after: u64, limits: &Limits) -> Self {
        let bytes = limits.page_bytes as usize;
        Self {
            listing: Listing { items: Vec::new(), next: after, more: true },
            examined: 0,
            bytes,
            is_complete: false,
        }
    }

    /// Examines the item with this number. Returns `false`, and leaves it for the next page, if the page is full.
    pub(super) fn add(&mut self, number: u64, item: Option<T>, limit: usize) -> bool {
        if let Some(item) = item {
            let mut room = PageBudget(self.bytes);
            if self.listing.items.len() >= limit || !room.spend(json_bytes(&item)) {
                self.is_complete = true;
                return false;
            }
            self.bytes = room.0;
            self.listing.items.push(item);
        }
        self.examined += 1;
        self.listing.next = number;
        true
    }

    /// Makes a step of rows, each with its number and its item.
    fn step(mut self, rows: impl ExactSizeIterator<Item = (i64, Option<T>)>, limit: usize) -> Self {
        let count = rows.len();
        for (number, item) in rows {
            if !self.add(number.unsigned_abs(), item, limit) {
                break;
            }
        }
        self.end_step(count)
    }

    /// The number after which the next step begins.
    pub(super) fn next(&self) -> u64 {
        self.listing.next
    }

    /// Ends a step that read `rows` of at most [`ROWS_PER_STEP`] rows and examined all of them.
    fn end_step(self, rows: usize) -> Self {
        self.end_step_of(rows, ROWS_PER_STEP)
    }

    /// Ends a step that read `rows` of at most `most` rows and examined all of them.
    pub(super) fn end_step_of(mut self, rows: usize, most: usize) -> Self {
        if !self.is_complete {
            self.listing.more = rows >= most;
            self.is_complete = !self.listing.more || self.examined >= Limits::LIST_ROWS;
        }
        self
    }
}

/// Makes a list by repeating steps.
pub(crate) async fn listing_in_steps<T>(
    step: impl Fn(Option<ListingInProgress<T>>) -> Answer<ListingInProgress<T>>,
) -> Result<Listing<T>, Refusal> {
    let mut list = None;
    loop {
        let next = step(list).await?;
        if next.is_complete {
            return Ok(next.listing);
        }
        list = Some(next);
    }
}

impl<L: ListLookups> Reader<'_, L> {
    /// Makes one step of `list_users`; the first step has no `list`.
    pub(crate) fn list_users(
        &self,
        query: &ListUsers,
        list: Option<&ListingInProgress<ListedUser>>,
    ) -> LookupResult<ListingInProgress<ListedUser>, L> {
        let limit = self.limits.page_size(query.limit) as usize;
        let list = list.cloned().unwrap_or_else(|| ListingInProgress::new(query.after, self.limits));
        let rows = self.rows.users_after(UserKey(signed(list.listing.next)), ROWS_PER_STEP)?;
        Ok(list.step(rows.into_iter().map(|row| (row.key.0, listed_user(query, row))), limit))
    }

    /// Makes one step of `bans`; the first step has no `list`.
    pub(crate) fn list_bans(
        &self,
        query: &ListBans,
        list: Option<&ListingInProgress<ListedBan>>,
    ) -> LookupResult<ListingInProgress<ListedBan>, L> {
        let limit = self.limits.page_size(query.limit) as usize;
        let list = list.cloned().unwrap_or_else(|| ListingInProgress::new(query.after, self.limits));
        let rows = self.rows.bans_after(UserKey(signed(list.listing.next)), ROWS_PER_STEP)?;
        Ok(list.step(rows.into_iter().map(|row| (row.user.0, listed_ban(query, row))), limit))
    }

    /// Makes one step of `list_rooms`; the first step has no `list`.
    pub(crate) fn list_rooms(
        &self,
        query: &ListRooms,
        list: Option<&ListingInProgress<ListedRoom>>,
    ) -> LookupResult<ListingInProgress<ListedRoom>, L> {
        let limit = self.limits.page_size(query.limit) as usize;
        let mut list = list.cloned().unwrap_or_else(|| ListingInProgress::new(query.after, self.limits));
        let after = ConversationKey(signed(list.listing.next));
        let rows = match &query.member {
            Some(member) => self.conversations_of(member, after)?,
            None => self.rows.conversations_after(after, ROWS_PER_STEP)?,
        };
        let count = rows.len();
        let mut examined_members = 0;
        for (key, conversation) in rows {
            let room = conversation.filter(|room| is_listed(query, room));
            let hidden = match (&query.visible, &room) {
                (Some(pattern), Some(room)) => {
                    examined_members += room.members;
                    !self.has_member(room.key, pattern)?
                }
                _ => false,
            };
            let room = room.filter(|_| !hidden);
            if !list.add(key.0.unsigned_abs(), room.map(listed_room), limit) {
                break;
            }
            if examined_members > MAX_EXAMINED_MEMBERS {
                // The rest of these rows is read again by the next step.
                list.is_complete = list.examined >= Limits::LIST_ROWS;
                return Ok(list);
            }
        }
        Ok(list.end_step(count))
    }

    /// The conversations of a user after one of them.
    fn conversations_of(
        &self,
        member: &UserId,
        after: ConversationKey,
    ) -> LookupResult<Vec<(ConversationKey, Option<Conversation>)>, L> {
        let Some(user) = self.rows.find_user(member)? else { return Ok(Vec::new()) };
        let rows = self.rows.memberships(user.key, after, ROWS_PER_STEP)?;
        let keys: Vec<_> = rows.iter().map(|row| row.conversation).collect();
        let listed = self.listed_conversations(user.key, &keys)?;
        let mut listed: FxHashMap<_, _> =
            listed.into_iter().map(|listed| (listed.conversation.key, listed.conversation)).collect();
        Ok(keys.into_iter().map(|key| (key, listed.remove(&key))).collect())
    }

    fn has_member(&self, room: ConversationKey, pattern: &UserPattern) -> LookupResult<bool, L> {
        let found = self.rows.conversations_with(&[room], pattern)?;
        Ok(found.get(&room).is_some_and(|last| *last == Seq::MAX))
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The user of a row, unless the query leaves them out.
fn listed_user(query: &ListUsers, row: UserListRow) -> Option<ListedUser> {
    let UserListRow { key, name, last_seen, profile } = row;
    let user = name?;
    let profile = profile.unwrap_or_default();
    let is_listed = [&query.matches, &query.visible].into_iter().flatten().all(|one| one.matches(&user))
        && query.active.is_none_or(|active| active == profile.active);
    is_listed.then(|| ListedUser {
        number: key.0.unsigned_abs(),
        active: profile.active,
        last_seen,
        profile: profile.visible_profile(user),
    })
}

/// The ban of a row, unless the query leaves it out.
fn listed_ban(query: &ListBans, row: BanRow) -> Option<ListedBan> {
    let BanRow { user: key, name, new: NewBan { ban, note }, at } = row;
    let user = name?;
    let is_visible = query.visible.as_ref().is_none_or(|pattern| pattern.matches(&user));
    (is_visible && ban.holds_at(query.now)).then(|| ListedBan {
        number: key.0.unsigned_abs(),
        user,
        until: ban.until,
        at,
        shadow: ban.shadow,
        reason: ban.reason,
        note,
    })
}

/// Whether a query includes a conversation, as far as its row says.
fn is_listed(query: &ListRooms, conversation: &Conversation) -> bool {
    let Some(name) = conversation.name.as_str().strip_prefix('#') else { return false };
    !conversation.ended
        && query.matches.as_ref().is_none_or(|pattern| pattern.matches_text(name))
        && query.public.is_none_or(|public| public == conversation.public)
}

fn listed_room(room: Conversation) -> ListedRoom {
    let (slow, rejoin) = room.shown_settings();
    ListedRoom {
        number: room.key.0.unsigned_abs(),
        conversation: room.name,
        title: room.title.and_then(|title| Title::parse(title).ok()),
        public: room.public,
        slow,
        rejoin,
        members: room.members,
        messages: room.messages,
        head: room.head,
        at: Timestamp::from_millis(room.at),
    }
}

/// Unread counts that are being made, between two steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnreadInProgress {
    counted: Vec<UserUnread>,
    /// Memberships of the next user up to this conversation have been examined.
    after: Option<ConversationKey>,
    latest: Vec<Activity>,
}

/// Makes the unread counts of users by repeating steps.
pub(crate) async fn unread_in_steps(
    users: usize,
    step: impl Fn(UnreadInProgress) -> Answer<UnreadInProgress>,
) -> Result<Vec<UserUnread>, Refusal> {
    let mut counts = UnreadInProgress::default();
    while counts.counted.len() < users {
        counts = step(counts).await?;
    }
    Ok(counts.counted)
}

impl<L: ListLookups> Reader<'_, L> {
    /// Counts what some of `users` have not read, or examines some of the conversations of one of them.
    pub(crate) fn unread_step(
        &self,
        users: &[UserId],
        counts: &UnreadInProgress,
    ) -> LookupResult<UnreadInProgress, L> {
        let mut counts = counts.clone();
        let mut examined = 0;
        while let Some(user) = users.get(counts.counted.len()).filter(|_| examined < ROWS_PER_STEP) {
            examined += self.examine_unread(user, &mut counts)?;
        }
        Ok(counts)
    }

    /// Examines a page of the memberships of a user, and counts once it was the last. Returns how many rows it read.
    fn examine_unread(&self, user: &UserId, counts: &mut UnreadInProgress) -> LookupResult<usize, L> {
        let mut unread = UserUnread {
            user: user.clone(),
            messages: 0,
            conversations: 0,
            online: false,
            last_seen: None,
            more: false,
        };
        let Some(known) = self.rows.presence_peer_rows(std::slice::from_ref(user))?.pop() else {
            counts.counted.push(unread);
            return Ok(1);
        };
        let after = counts.after.unwrap_or(ConversationKey::MIN);
        let rows = self.rows.memberships(known.key, after, self.memberships_per_step)?;
        let hidden = self.rows.hidden_conversations(known.key)?;
        counts.latest.extend(rows.iter().filter_map(|row| row.visible_activity(&hidden)));
        Activity::keep_latest(&mut counts.latest, Limits::MAX_UNREAD_CONVERSATIONS + 1);
        if let Some(last) = rows.last().filter(|_| rows.len() >= self.memberships_per_step) {
            counts.after = Some(last.conversation);
            return Ok(rows.len());
        }
        let latest = std::mem::take(&mut counts.latest);
        counts.after = None;
        let most = latest.len().min(Limits::MAX_UNREAD_CONVERSATIONS);
        let keys: Vec<_> = latest[..most].iter().map(|latest| latest.conversation).collect();
        let listed = self.listed_conversations(known.key, &keys)?;
        let blocked = self.count_blocked_unread(self.reader(known.key)?, &listed)?;
        let total = fold::unread(&listed, &blocked, latest.len() > most);
        unread.messages = total.messages;
        unread.conversations = total.conversations;
        unread.more = total.more;
        unread.last_seen = known.last_seen;
        counts.counted.push(unread);
        Ok(1 + rows.len() + listed.len())
    }
}
