//! Pages of the feed. docs/decisions/0053-feed-pages.md

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use switchboard_protocol::{ConversationId, ErrorCode, Seq, Timestamp, UserId};

use super::{LookupResult, Lookups, PageBudget, Reader};
use crate::block::View;
use crate::feed::{FeedCursor, FeedPage, FeedPart, FeedQuery, Item, runs};
use crate::grant::UserPattern;
use crate::record::{ConversationKey, LogEvent, UserKey, Via};
use crate::refusal::{Refusal, RefusalDetails};

/// How many entries are looked up at a time.
const STEP: usize = 256;

/// The most entries that a page of the feed's index may have: more than a transaction writes.
const MAX_PAGE_ITEMS: u64 = 1 << 20;

/// The most entries that one call passes over because its `types` or its key leave them out.
const MAX_PASSED: usize = 10_000;

/// The prefix of the types that only a key with the scope `admin` reads.
const AUDIT: &str = "audit.";

/// The fields of an event that have content.
const CONTENT: [&str; 3] = ["text", "data", "files"];

/// The lookups that the feed needs besides those of all reads.
pub(crate) trait FeedLookups: Lookups {
    /// The epoch of the feed, the number before its first entry, and the last number that is in a page.
    fn feed_ends(&self) -> LookupResult<Ends, Self>;

    /// At most `most` pages with numbers above `after`: the first number of each, and its runs.
    fn feed_pages(&self, after: u64, most: usize) -> LookupResult<Vec<(u64, Vec<u8>)>, Self>;

    /// Events in their stored form, in the order given; `None` for one that does not exist.
    fn feed_events(&self, events: &[(ConversationKey, Seq)]) -> LookupResult<Vec<Option<FedEvent>>, Self>;

    /// The entries that are no events, with a number above `after` and up to `upto`.
    fn feed_entries(&self, after: u64, upto: u64) -> LookupResult<FxHashMap<u64, FedEntry>, Self>;

    /// The key of a conversation.
    fn find_conversation(&self, name: &ConversationId) -> LookupResult<Option<ConversationKey>, Self>;

    /// The ids of conversations by their keys.
    fn conversation_names(
        &self,
        conversations: &[ConversationKey],
    ) -> LookupResult<FxHashMap<ConversationKey, ConversationId>, Self>;

    /// The names of API keys by their numbers.
    fn key_names(&self) -> LookupResult<FxHashMap<i64, String>, Self>;

    /// The conversations among `conversations` with a member, or a former one, whose id matches the pattern, and the last event that
    /// such a member may read: the latest event of leaving, or [`Seq::MAX`] while there is a member.
    fn conversations_with(
        &self,
        conversations: &[ConversationKey],
        pattern: &UserPattern,
    ) -> LookupResult<FxHashMap<ConversationKey, Seq>, Self>;
}

/// Where the feed begins and ends.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) epoch: String,
    /// The number before the first entry that is kept.
    pub(crate) before: u64,
    /// The last number.
    pub(crate) last: u64,
}

/// The numbers that are in no page yet: those after `paged`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unpaged {
    pub(crate) epoch: String,
    pub(crate) paged: u64,
    pub(crate) items: Vec<Item>,
}

/// An event in the feed.
pub(crate) struct FedEvent {
    pub(crate) event: LogEvent,
    pub(crate) via: i32,
}

/// An entry that is no event, as it is stored.
pub(crate) struct FedEntry {
    pub(crate) kind: String,
    pub(crate) at: i64,
    pub(crate) user: Option<i64>,
    pub(crate) via: i32,
    pub(crate) address: Option<String>,
    pub(crate) body: String,
}

/// The fields of an entry besides those that all have.
type Fields = Map<String, Value>;

/// An entry on the wire.
#[derive(Serialize)]
struct Entry<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    #[serde(flatten)]
    rest: Fields,
}

/// A page that is being filled.
struct Filling<'q> {
    query: &'q FeedQuery,
    ends: Ends,
    page: FeedPage,
    room: PageBudget,
    passed: usize,
    /// The only conversation whose events are wanted, if the query is of one; then `None` if it does not exist.
    conversation: Option<Option<ConversationKey>>,
    /// The names of keys, once an entry needs them.
    keys: Option<FxHashMap<i64, String>>,
}

impl<L: FeedLookups> Reader<'_, L> {
    /// A page of the feed. `unpaged` was read before this transaction began, and has what is in no page.
    pub(crate) fn feed(&self, query: &FeedQuery, unpaged: &Unpaged) -> LookupResult<FeedPage, L> {
        let mut ends = self.rows.feed_ends()?;
        let paged = ends.last;
        if !unpaged.epoch.is_empty() {
            ends.epoch.clone_from(&unpaged.epoch);
            ends.last = ends.last.max(unpaged.paged + unpaged.items.len() as u64);
        }
        let after = check_cursor(&query.after, &ends)?;
        let page = FeedPage { epoch: ends.epoch.clone(), entries: Vec::new(), next: after, more: false };
        let room = PageBudget(self.limits.page_bytes as usize);
        let conversation = match &query.part {
            Some(FeedPart::Conversation(name)) => Some(self.rows.find_conversation(name)?),
            Some(FeedPart::User(_) | FeedPart::Rest) => Some(None),
            None => None,
        };
        let mut filling = Filling { query, ends, page, room, passed: 0, conversation, keys: None };
        while filling.page.next < filling.ends.last {
            let (first, items) = self.feed_items(filling.page.next, paged, unpaged)?;
            if items.is_empty() {
                break;
            }
            filling.page.next = first - 1;
            if !self.fill(&mut filling, &items)? {
                filling.page.more = filling.page.next < filling.ends.last;
                break;
            }
        }
        Ok(filling.page)
    }

    /// At most [`STEP`] items after the number `after`, and the number of the first: a later one than the next where a page is
    /// missing.
    pub(super) fn feed_items(
        &self,
        after: u64,
        paged: u64,
        unpaged: &Unpaged,
    ) -> LookupResult<(u64, Vec<Item>), L> {
        if after >= paged {
            let passed = usize::try_from(after - unpaged.paged.min(after)).unwrap_or(usize::MAX);
            let items = unpaged.items.iter().skip(passed).take(STEP).copied().collect();
            return Ok((after.max(unpaged.paged) + 1, items));
        }
        let pages = self.rows.feed_pages(after, 1)?;
        let Some((first, bytes)) = pages.into_iter().next() else { return Ok((after + 1, Vec::new())) };
        let Some(items) = runs::decode(&bytes, MAX_PAGE_ITEMS) else {
            tracing::error!(first, "a page of the feed is damaged");
            return Err(Refusal::unavailable().into());
        };
        let passed = usize::try_from(after + 1 - first.min(after + 1)).unwrap_or(usize::MAX);
        Ok((first.max(after + 1), items.into_iter().skip(passed).take(STEP).collect()))
    }

    /// Adds the entries of these items to the page. Returns `false` if the page is full.
    fn fill(&self, filling: &mut Filling<'_>, items: &[Item]) -> LookupResult<bool, L> {
        let first = filling.page.next + 1;
        let is_wanted = |item: &Item| item.is_none_or(|place| filling.is_of_part(place.0));
        let items: Vec<_> = items.iter().map(|item| Some(*item).filter(is_wanted)).collect();
        let places: Vec<_> = items.iter().copied().flatten().flatten().collect();
        let events = self.fed_events(&places)?;
        let mut via = events.iter().flatten().map(|fed| fed.via);
        let has_entries = items.contains(&Some(None)) && filling.wants_entries();
        let entries = if has_entries {
            self.rows.feed_entries(first - 1, first - 1 + items.len() as u64)?
        } else {
            FxHashMap::default()
        };
        if filling.keys.is_none() && (via.any(|via| via > 0) || entries.values().any(|entry| entry.via > 0)) {
            filling.keys = Some(self.rows.key_names()?);
        }
        let mut entries = self.named_entries(entries)?;
        let users = entries.values().flat_map(|(entry, fields)| [entry.user, moderator_of(fields)]);
        let users: Vec<_> = users.flatten().map(UserKey).collect();
        let users = if users.is_empty() { FxHashMap::default() } else { self.rows.user_names(&users)? };
        let seen = match &filling.query.acts_as {
            Some(pattern) => {
                let mut of: Vec<_> = places.iter().map(|place| place.0).collect();
                of.sort_unstable();
                of.dedup();
                Some(self.rows.conversations_with(&of, pattern)?)
            }
            None => None,
        };
        let mut events = events.iter();
        for (number, item) in (first..).zip(&items) {
            let entry = match item.as_ref() {
                None => None,
                Some(Some((conversation, seq))) => events.next().and_then(Option::as_ref).and_then(|fed| {
                    let is_seen = seen
                        .as_ref()
                        .is_none_or(|seen| seen.get(conversation).is_some_and(|last| seq <= last));
                    is_seen.then(|| filling.of_event(number, fed)).flatten()
                }),
                Some(None) => entries
                    .remove(&number)
                    .and_then(|(entry, fields)| filling.of_entry(number, &entry, fields, &users)),
            };
            if !filling.add(number, entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Entries with the ids of the conversations that they name by keys.
    fn named_entries(
        &self,
        entries: FxHashMap<u64, FedEntry>,
    ) -> LookupResult<FxHashMap<u64, (FedEntry, Fields)>, L> {
        let with_fields = |(number, entry): (u64, FedEntry)| {
            let fields = serde_json::from_str(&entry.body).unwrap_or_default();
            (number, (entry, fields))
        };
        let mut entries: FxHashMap<u64, (FedEntry, Fields)> = entries.into_iter().map(with_fields).collect();
        let mut places: Vec<_> = entries.values().flat_map(|(_, fields)| places_of(fields)).collect();
        if !places.is_empty() {
            places.sort_unstable();
            places.dedup();
            let names = self.rows.conversation_names(&places)?;
            entries.values_mut().for_each(|(_, fields)| name_places(fields, &names));
        }
        Ok(entries)
    }

    /// Events in their wire form, in the order given.
    fn fed_events(&self, places: &[(ConversationKey, Seq)]) -> LookupResult<Vec<Option<FedEvent>>, L> {
        let found = self.rows.feed_events(places)?;
        let (mut events, mut at) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        for fed in found {
            at.push(fed.as_ref().map(|fed| fed.via));
            events.extend(fed.map(|fed| fed.event));
        }
        self.fill_names(&mut events, u32::MAX)?;
        let mut events = events.into_iter();
        let fed = at.into_iter().map(|via| {
            let via = via?;
            events.next().map(|event| FedEvent { event, via })
        });
        Ok(fed.collect())
    }
}

impl Filling<'_> {
    /// Adds an entry, or passes over a number without one. Returns `false` if the page is full.
    fn add(&mut self, number: u64, entry: Option<Box<RawValue>>) -> bool {
        match entry {
            Some(entry) => {
                let is_first = self.page.entries.is_empty();
                if !self.room.spend(entry.get().len() + 1) && !is_first {
                    return false;
                }
                self.page.entries.push(entry);
            }
            None => self.passed += 1,
        }
        self.page.next = number;
        self.page.entries.len() < self.query.limit as usize && self.passed < MAX_PASSED
    }

    /// Whether the events of a conversation are in the part of the feed that is read.
    fn is_of_part(&self, conversation: ConversationKey) -> bool {
        self.conversation.is_none_or(|only| only == Some(conversation))
    }

    /// Whether entries that are no events are in the part of the feed that is read.
    fn wants_entries(&self) -> bool {
        !matches!(self.query.part, Some(FeedPart::Conversation(_)))
    }

    fn is_wanted(&self, kind: &str, via: i32) -> bool {
        !(self.query.skips_imported && Via(via).is_imported())
            && (self.query.types.is_empty() || self.query.types.iter().any(|wanted| wanted == kind))
            && (self.query.is_admin || !kind.starts_with(AUDIT))
    }

    fn of_event(&self, number: u64, fed: &FedEvent) -> Option<Box<RawValue>> {
        let FedEvent { event, via } = fed;
        let kind = event.kind.as_str();
        if !self.is_wanted(kind, *via) {
            return None;
        }
        let raw = if self.query.no_text {
            let mut fields: Map<String, Value> =
                serde_json::from_str(&event.to_json_for(View::Whole)).ok()?;
            fields.retain(|name, _| !CONTENT.contains(&name.as_str()));
            to_raw_value(&fields).ok()?
        } else {
            event.to_raw_for(View::Whole).ok()?
        };
        self.encode(number, kind, event.at, (*via, None), None, (Some(raw), Map::new()))
    }

    fn of_entry(
        &self,
        number: u64,
        entry: &FedEntry,
        mut fields: Fields,
        users: &FxHashMap<UserKey, UserId>,
    ) -> Option<Box<RawValue>> {
        if let Some(by) = moderator_of(&fields) {
            fields.remove(MODERATOR);
            fields.extend(users.get(&UserKey(by)).map(|by| (MODERATOR.to_owned(), by.as_str().into())));
        }
        let user = entry.user.and_then(|user| users.get(&UserKey(user)));
        let pattern = self.query.acts_as.as_ref();
        let is_seen = pattern.is_none_or(|pattern| user.is_some_and(|user| pattern.matches(user)));
        let is_of_part = match &self.query.part {
            Some(FeedPart::User(wanted)) => user == Some(wanted),
            Some(FeedPart::Rest) => user.is_none(),
            _ => true,
        };
        if !is_seen || !is_of_part || !self.is_wanted(&entry.kind, entry.via) {
            return None;
        }
        let address = entry.address.as_deref().filter(|_| self.query.is_admin);
        let at = Timestamp::from_millis(entry.at);
        self.encode(number, &entry.kind, at, (entry.via, address), user, (None, fields))
    }

    fn encode(
        &self,
        number: u64,
        kind: &str,
        at: Timestamp,
        (via, address): (i32, Option<&str>),
        user: Option<&UserId>,
        (event, rest): (Option<Box<RawValue>>, Map<String, Value>),
    ) -> Option<Box<RawValue>> {
        let imported = Via(via).is_imported();
        let via = match Via(via).without_import().0 {
            0 => None,
            -1 => Some("cli"),
            -2 => Some("hook"),
            number => self.keys.as_ref().and_then(|keys| keys.get(&number.into())).map(String::as_str),
        };
        let id = FeedPage::cursor(&self.ends.epoch, number);
        to_raw_value(&Entry { id, kind, at, via, address, imported, user, event, rest }).ok()
    }
}

/// The fields of a stored entry that name a place in a log by the conversation's key and a seq, because ids of conversations may
/// change. A reader of `user.read` gets `conversation` and `seq` instead of `place`, and one of `user.missed` both in `latest`.
const PLACES: [&str; 2] = ["place", "latest"];

/// The field of a stored entry that names a moderator by number.
const MODERATOR: &str = "by";

fn moderator_of(fields: &Fields) -> Option<i64> {
    fields.get(MODERATOR)?.as_i64()
}

/// The conversations that an entry names by keys.
fn places_of(fields: &Fields) -> impl Iterator<Item = ConversationKey> {
    let places = PLACES.iter().filter_map(|name| read_place(fields.get(*name)?));
    places.map(|(conversation, _)| conversation)
}

fn read_place(place: &Value) -> Option<(ConversationKey, Seq)> {
    Deserialize::deserialize(place).ok()
}

/// Replaces the keys of conversations by their ids. A conversation that is gone is left out.
fn name_places(fields: &mut Fields, names: &FxHashMap<ConversationKey, ConversationId>) {
    for name in PLACES {
        let Some((conversation, seq)) = fields.remove(name).and_then(|place| read_place(&place)) else {
            continue;
        };
        let Some(conversation) = names.get(&conversation) else { continue };
        // A held message has no seq yet.
        let seq = (seq.0 > 0).then(|| ("seq".to_owned(), seq.0.into()));
        let named = [("conversation".to_owned(), conversation.as_str().into())].into_iter().chain(seq);
        if name == "place" {
            fields.extend(named);
        } else {
            fields.insert(name.to_owned(), Value::Object(named.into_iter().collect()));
        }
    }
}

/// The number after which a page begins.
fn check_cursor(cursor: &FeedCursor, ends: &Ends) -> Result<u64, Refusal> {
    match cursor {
        FeedCursor::Beginning => Ok(ends.before),
        FeedCursor::End => Ok(ends.last),
        FeedCursor::After { epoch, number }
            if *epoch == ends.epoch && (ends.before..=ends.last).contains(number) =>
        {
            Ok(*number)
        }
        FeedCursor::After { .. } => {
            let [oldest, newest] =
                [ends.before, ends.last].map(|number| FeedPage::cursor(&ends.epoch, number));
            let message = "the feed has no such cursor, or no longer: what is after it may be lost to you; go on from `oldest` or `newest`";
            Err(Refusal {
                details: Some(Box::new(RefusalDetails::Cursors((oldest, newest)))),
                ..Refusal::new(ErrorCode::BadCursor, message)
            })
        }
    }
}
