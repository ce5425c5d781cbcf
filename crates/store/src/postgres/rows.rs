//! The rows of one transaction. They are prefetched by name before the changes, cached in memory, and flushed with the
//! commit in one round trip.
//!
//! Other nodes write to the same database, so no cached row outlives the transaction. Reading a conversation locks its row,
//! so no other node writes to it until the transaction ends, and its cached rows are current.

mod bans;
mod blocks;
mod empty;
mod fetch;
mod flush;
mod imports;
mod missing;
mod new_event;
mod profiles;
mod reactions;
mod reports;

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, Seq, Timestamp, UserId};

use self::bans::Bans;
pub(super) use self::flush::SaveError;
use self::{blocks::BlockChanges, new_event::NewEvent, profiles::Profiles, reactions::Reactions};
use super::connect::{BlockingConnection, Error};
use super::ids::Ids;
use super::installation::{ENDED_ROOMS, VERSION_WITH_USER_KEYS};
use crate::MessageCounts;
use crate::ban::{Ban, NewBan};
use crate::change::dispatch::Prefetch;
use crate::change::rows::{CaughtUp, KeyedMessage, PROBE_BYTES, ReferredEvent, Rows};
use crate::feed::Entry;
use crate::held::HeldMessage;
use crate::profile::StoredProfile;
use crate::record::{Conversation, ConversationKey, LogEvent, Membership, RequestDigest, UserKey, Via};

/// The statements to prepare on each connection.
pub(super) fn statements() -> impl Iterator<Item = &'static str> {
    fetch::STATEMENTS.into_iter().chain(missing::STATEMENTS).chain(flush::statements())
}

/// How to treat a conversation that another node has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockMode {
    /// Wait for the lock.
    Wait,
    /// Skip it: writes to it fail with [`Error::ConversationLocked`].
    SkipLocked,
}

/// The rows of one transaction.
pub(super) struct PostgresRows<'a> {
    link: &'a BlockingConnection,
    ids: &'a mut Ids,
    max_rooms: u32,
    near: u64,
    /// The id of the writer's own row.
    writer_id: String,
    /// The version of the installation. It cannot change while the transaction is open.
    installation_version: i32,

    // Rows that were read, with the changes of this transaction; `None` for rows that do not exist.
    users: FxHashMap<UserId, Option<UserKey>>,
    user_names: FxHashMap<UserKey, UserId>,
    /// Whether ids without a user are retired.
    retired: FxHashMap<UserId, bool>,
    conversations: FxHashMap<ConversationId, Option<Conversation>>,
    names: FxHashMap<ConversationKey, ConversationId>,
    members: FxHashMap<(ConversationKey, UserKey), Option<Membership>>,
    keyed: FxHashMap<(UserKey, Box<str>), Option<KeyedMessage>>,
    held: FxHashMap<(UserKey, Box<str>), Option<HeldMessage>>,
    events: FxHashMap<(ConversationKey, Seq), Option<ReferredEvent>>,
    amendments: FxHashMap<(ConversationKey, Seq), Vec<Seq>>,
    reactions: Reactions,
    /// The number of rooms that a user created or joined, as the database has it.
    room_counts: FxHashMap<UserKey, u32>,

    /// Message counts up to cursors, as the database computed them.
    counts: FxHashMap<(ConversationKey, UserKey, Seq), MessageCounts>,

    /// Users whose rows this transaction has locked.
    locked: FxHashSet<UserKey>,
    /// Conversations that another node has locked.
    locked_elsewhere: FxHashSet<ConversationId>,

    // Rows that the flush writes.
    new_users: BTreeMap<UserId, UserKey>,
    last_seen: BTreeMap<UserKey, i64>,
    not_before: BTreeMap<UserKey, (i64, bool)>,
    keys_used: BTreeMap<Via, i64>,
    profiles: Profiles,
    bans: Bans,
    blocks: BlockChanges,
    new_conversations: BTreeSet<ConversationId>,
    dirty_conversations: FxHashSet<ConversationId>,
    /// The changed members; the value says whether the row exists in the database.
    dirty_members: BTreeMap<(ConversationKey, UserKey), bool>,
    new_events: Vec<NewEvent>,
    new_event_index: FxHashMap<(ConversationKey, Seq), usize>,
    new_event_keys: FxHashMap<(UserKey, Box<str>), usize>,
    erased_bodies: BTreeMap<(ConversationKey, Seq), Box<str>>,
    deleted_requests: Vec<(ConversationKey, Seq)>,
    new_amendments: Vec<(ConversationKey, Seq, Seq)>,
    /// The rooms that this transaction deletes.
    ended_rooms: Vec<i64>,
    /// `true` if the user created or joined the room, `false` if the user left it.
    room_choices: BTreeMap<(UserKey, ConversationKey), bool>,
    /// Entries of the feed that are no events.
    entries: Vec<Entry>,
    /// The time before which entries of the feed are removed; empty if none are.
    feed_trimmed: Vec<i64>,
    /// The bytes that a probe writes; empty if there is no probe.
    probe: Vec<u8>,
    /// The conversations whose readers have read what this transaction imports.
    caught_up: Vec<CaughtUp>,
    /// Whether nothing of this transaction is stored.
    is_abandoned: bool,
}

impl PostgresRows<'_> {
    /// Returns the event at `at`, if this transaction inserts it.
    fn new_event(&self, at: (ConversationKey, Seq)) -> Option<&NewEvent> {
        self.new_events.get(*self.new_event_index.get(&at)?)
    }
}

impl Rows for PostgresRows<'_> {
    fn user(&mut self, name: &UserId) -> Result<Option<UserKey>, Error> {
        if !self.users.contains_key(name) {
            self.fetch(&Prefetch { users: [name.clone()].into_iter().collect(), ..Prefetch::default() })?;
        }
        Ok(self.users.get(name).copied().flatten())
    }

    fn user_or_new(&mut self, name: &UserId) -> Result<UserKey, Error> {
        if let Some(key) = self.user(name)? {
            return Ok(key);
        }
        let key = self.ids.new_user_key(self.link)?;
        self.users.insert(name.clone(), Some(key));
        self.user_names.insert(key, name.clone());
        self.new_users.insert(name.clone(), key);
        Ok(key)
    }

    fn is_retired(&mut self, name: &UserId) -> Result<bool, Error> {
        self.read_retired(name)
    }

    fn hold_ids(&mut self, users: &[&UserId]) -> Result<bool, Error> {
        self.lock_ids(users)
    }

    fn set_last_seen(&mut self, user: UserKey, at: Timestamp) -> Result<(), Error> {
        self.lock_user(user)?;
        let last = self.last_seen.entry(user).or_insert(i64::MIN);
        *last = (*last).max(at.as_millis());
        Ok(())
    }

    fn set_connected_at_stop(&mut self, _: UserKey) -> Result<(), Error> {
        Ok(())
    }

    fn set_not_before(&mut self, user: UserKey, at: Timestamp, replace: bool) -> Result<(), Error> {
        self.lock_user(user)?;
        let at = at.as_millis();
        let noted = self.not_before.entry(user).or_insert((at, replace));
        *noted = if replace { (at, true) } else { (noted.0.max(at), noted.1) };
        Ok(())
    }

    fn ban(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Ban>, Error> {
        self.read_ban((conversation, user))
    }

    fn put_ban(
        &mut self,
        conversation: ConversationKey,
        user: UserKey,
        ban: Option<(NewBan, Timestamp)>,
    ) -> Result<(), Error> {
        self.store_ban((conversation, user), ban);
        Ok(())
    }

    fn profile(&mut self, user: UserKey) -> Result<Option<StoredProfile>, Error> {
        self.read_profile(user)
    }

    fn put_profile(
        &mut self,
        user: UserKey,
        profile: StoredProfile,
        removed: Vec<String>,
        added: Vec<String>,
    ) -> Result<(), Error> {
        self.profiles.put(user, profile, removed, added);
        Ok(())
    }

    fn set_key_used(&mut self, key: Via, hour: Timestamp) -> Result<(), Error> {
        let used = self.keys_used.entry(key).or_insert(i64::MIN);
        *used = (*used).max(hour.as_millis());
        Ok(())
    }

    fn probe(&mut self) -> Result<(), Error> {
        self.probe.resize(PROBE_BYTES, 0);
        Ok(())
    }

    fn conversation(&mut self, name: &ConversationId) -> Result<Option<Conversation>, Error> {
        self.read_conversation(name)
    }

    fn new_conversation(
        &mut self,
        name: &ConversationId,
        title: Option<String>,
        public: bool,
    ) -> Result<Conversation, Error> {
        let conversation =
            Conversation::new(self.ids.new_conversation_key(self.link)?, name.clone(), title, public);
        self.names.insert(conversation.key, name.clone());
        self.new_conversations.insert(name.clone());
        self.conversations.insert(name.clone(), Some(conversation.clone()));
        Ok(conversation)
    }

    fn put_conversation(&mut self, conversation: Conversation) {
        self.dirty_conversations.insert(conversation.name.clone());
        self.conversations.insert(conversation.name.clone(), Some(conversation));
    }

    fn may_end_rooms(&self) -> bool {
        self.installation_version >= ENDED_ROOMS
    }

    fn insert_ended_room(&mut self, room: ConversationKey) -> Result<(), Error> {
        self.ended_rooms.push(room.0);
        Ok(())
    }

    fn member(&mut self, conversation: ConversationKey, user: UserKey) -> Result<Option<Membership>, Error> {
        self.read_member((conversation, user))
    }

    fn put_member(&mut self, conversation: ConversationKey, user: UserKey, member: Membership) {
        let at = (conversation, user);
        let before = self.members.insert(at, Some(member));
        self.dirty_members.entry(at).or_insert(before.flatten().is_some());
    }

    fn share_a_conversation(
        &mut self,
        a: UserKey,
        b: UserKey,
        direct: &ConversationId,
    ) -> Result<bool, Error> {
        self.look_up_shared(a, b, direct)
    }

    fn message_by_key(&mut self, sender: UserKey, key: &str) -> Result<Option<KeyedMessage>, Error> {
        let at = (sender, Box::from(key));
        if let Some(event) = self.new_event_keys.get(&at).and_then(|place| self.new_events.get(*place)) {
            return Ok(Some(KeyedMessage {
                conversation: self.name_of(event.conversation)?,
                key: event.conversation,
                seq: event.seq,
                at: event.at,
                body: event.body.to_string(),
                request: event.request,
            }));
        }
        if !self.keyed.contains_key(&at) && !self.is_new_user(sender) {
            let keyed = [(self.name_of_user(sender)?, at.1.clone())].into_iter().collect();
            self.fetch(&Prefetch { message_keys: keyed, ..Prefetch::default() })?;
        }
        let mut keyed = self.keyed.get(&at).cloned().flatten();
        if let Some(keyed) = &mut keyed
            && let Some(body) = self.erased_bodies.get(&(keyed.key, keyed.seq))
        {
            keyed.body = body.to_string();
        }
        Ok(keyed)
    }

    fn event(&mut self, conversation: ConversationKey, target: Seq) -> Result<Option<ReferredEvent>, Error> {
        let at = (conversation, target);
        if let Some(event) = self.new_event(at) {
            return Ok(Some(ReferredEvent {
                kind: event.kind,
                sender: event.sender,
                at: event.at,
                body: event.body.to_string(),
            }));
        }
        if !self.events.contains_key(&at) && !self.is_new(conversation) {
            let events = [(self.name_of(conversation)?, target)].into_iter().collect();
            self.fetch(&Prefetch { events, ..Prefetch::default() })?;
        }
        Ok(self.events.get(&at).cloned().flatten())
    }

    fn stores_user_keys(&self) -> bool {
        self.installation_version >= VERSION_WITH_USER_KEYS
    }

    /// A concurrent transaction of another node may insert the same idempotency key. Only the database finds that, at the
    /// flush.
    fn insert_event(
        &mut self,
        event: &LogEvent,
        stored: &str,
        conversation: &Conversation,
        (sender, via): (UserKey, Via),
    ) -> Result<bool, Error> {
        Ok(self.add_event(event, stored, conversation, (sender, via)))
    }

    fn trim_feed(&mut self, before: Timestamp) -> Result<(), Error> {
        self.feed_trimmed = vec![before.as_millis()];
        Ok(())
    }

    fn insert_entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.entries.push(entry);
        Ok(())
    }

    fn erase_event(&mut self, conversation: ConversationKey, target: Seq, body: &str) -> Result<(), Error> {
        let at = (conversation, target);
        if let Some(event) = self.new_event_index.get(&at).and_then(|place| self.new_events.get_mut(*place)) {
            event.body = body.into();
            return Ok(());
        }
        if let Some(Some(event)) = self.events.get_mut(&at) {
            event.body = body.to_owned();
        }
        self.erased_bodies.insert(at, body.into());
        Ok(())
    }

    fn insert_replaced_request(
        &mut self,
        conversation: ConversationKey,
        message: Seq,
        request: RequestDigest,
    ) -> Result<(), Error> {
        self.put_request((conversation, message), Some(request));
        Ok(())
    }

    fn delete_replaced_request(&mut self, conversation: ConversationKey, message: Seq) -> Result<(), Error> {
        self.put_request((conversation, message), None);
        Ok(())
    }

    fn insert_amendment(&mut self, conversation: ConversationKey, target: Seq, by: Seq) -> Result<(), Error> {
        self.amendments_of(conversation, target)?.push(by);
        self.new_amendments.push((conversation, target, by));
        Ok(())
    }

    fn count_amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64, Error> {
        Ok(self.amendments_of(conversation, target)?.len() as u64)
    }

    fn amendments(&mut self, conversation: ConversationKey, target: Seq) -> Result<Vec<Seq>, Error> {
        Ok(self.amendments_of(conversation, target)?.clone())
    }

    /// Never queries the database. If a count was not prefetched, readers have to make it.
    fn message_counts(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
        _near: u64,
    ) -> Result<Option<MessageCounts>, Error> {
        Ok(self.known_counts(conversation, user, member, upto))
    }

    fn counts_from_end(
        &mut self,
        conversation: &Conversation,
        user: UserKey,
        member: &Membership,
        upto: Seq,
    ) -> Result<Option<MessageCounts>, Error> {
        self.count_from_end(conversation, user, member, upto)
    }

    fn catch_up_readers(&mut self, conversation: &Conversation, before: Seq) {
        self.caught_up.push(CaughtUp::new(conversation, before));
    }

    fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    fn latest_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
    ) -> Result<Option<(Seq, bool)>, Error> {
        self.read_reaction(conversation, target, emoji, user)?;
        Ok(self.reactions.latest(conversation, target, emoji, user))
    }

    fn set_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        by: Seq,
    ) -> Result<(), Error> {
        self.read_reaction(conversation, target, emoji, user)?;
        self.reactions.set((conversation, target, emoji.into(), user), by);
        Ok(())
    }

    fn remove_reaction(
        &mut self,
        conversation: ConversationKey,
        target: Seq,
        emoji: &str,
        user: UserKey,
        since: Seq,
        by: Seq,
    ) -> Result<(), Error> {
        self.read_reaction(conversation, target, emoji, user)?;
        self.reactions.take_back((conversation, target, emoji.into(), user), since, by);
        Ok(())
    }

    /// Never queries the database, because the count is read together with each reaction and a reaction is always read
    /// first. The prefetch counts the reactions of a message to be deleted.
    fn count_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<u64, Error> {
        Ok(self.reactions.current_count(conversation, target))
    }

    fn delete_reactions(&mut self, conversation: ConversationKey, target: Seq) -> Result<(), Error> {
        self.reactions.delete(conversation, target);
        Ok(())
    }

    fn count_self_joined_rooms(&mut self, user: UserKey, _most: u32) -> Result<u32, Error> {
        if self.is_new_user(user) {
            let new = self.choices_of(user).filter(|chosen| *chosen);
            return Ok(u32::try_from(new.count()).unwrap_or(u32::MAX));
        }
        self.lock_user(user)?;
        self.count_chosen_rooms(user)
    }

    fn insert_self_joined_room(&mut self, user: UserKey, conversation: ConversationKey) -> Result<(), Error> {
        self.room_choices.insert((user, conversation), true);
        Ok(())
    }

    fn delete_self_joined_room(&mut self, user: UserKey, conversation: ConversationKey) -> Result<(), Error> {
        self.room_choices.insert((user, conversation), false);
        Ok(())
    }
}
