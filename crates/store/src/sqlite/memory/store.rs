//! The store's contract for a database in memory.

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Seq, UserId, UserUnread};
use tokio::sync::watch;

use super::MemoryStore;
use crate::absence::{MissedPage, MissedQuery};
use crate::ban::Standing;
use crate::feed::{FeedPage, FeedQuery};
use crate::grant::KeyGrant;
use crate::listing::{BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing};
use crate::profile::{Directory, LastToken, People, PeopleQuery};
use crate::read::list;
use crate::read::listing::{listing_in_steps, unread_in_steps};
use crate::record::{Answer, ConversationKey, ReadEvent, UserKey};
use crate::report::{ListReports, UndecidedReports};
use crate::write_fault::WriteFault;
use crate::{Memberships, PresencePeer, Query, Snapshot, Store, Submission, Summaries, WriteAccess};

impl Store for MemoryStore {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        self.queue.try_send(submission).map_err(|error| Box::new(error.into_inner()))
    }

    fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>> {
        let user = user.clone();
        let Query::Conversations(command) = query else {
            return self.spawn_read(move |reader| reader.answer(&user, &query));
        };
        let reads = self.reads.clone();
        Box::pin(list::list_in_steps(move |list| {
            let (user, command) = (user.clone(), command.clone());
            reads.spawn(move |reader| reader.list(&user, &command, list.as_ref()))
        }))
    }

    fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.attach(&user, &named))
    }

    fn memberships(&self, _: &UserId, key: UserKey, after: ConversationKey) -> Answer<Memberships> {
        self.spawn_read(move |reader| reader.memberships(key, after))
    }

    fn summaries(&self, _: &UserId, key: UserKey, of: Vec<ConversationKey>) -> Answer<Summaries> {
        self.spawn_read(move |reader| reader.summaries_for(key, &of))
    }

    fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<ReadEvent>> {
        self.spawn_read(move |reader| reader.replay(user, conversation, after, upto))
    }

    fn check_write_access(&self, user: &UserId, conversation: ConversationId) -> Answer<WriteAccess> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.write_access(&user, &conversation))
    }

    fn presence_peers(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.presence_peers(&user, &others))
    }

    fn people(&self, user: &UserId, query: PeopleQuery, directory: Directory) -> Answer<People> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.people(&user, &query, directory))
    }

    fn last_token(&self, user: &UserId) -> Answer<Option<LastToken>> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.last_token(&user))
    }

    fn api_key(&self, hash: [u8; 32]) -> Answer<Option<KeyGrant>> {
        self.spawn_read(move |reader| reader.api_key(&hash))
    }

    fn standing(&self, user: &UserId) -> Answer<Standing> {
        let user = user.clone();
        self.spawn_read(move |reader| reader.standing(&user))
    }

    fn list_bans(&self, query: ListBans) -> Answer<BanListing> {
        let reads = self.reads.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            reads.spawn(move |reader| reader.list_bans(&query, list.as_ref()))
        }))
    }

    fn list_reports(&self, query: ListReports) -> Answer<ReportListing> {
        let reads = self.reads.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            reads.spawn(move |reader| reader.list_reports(&query, list.as_ref()))
        }))
    }

    fn undecided_reports(&self) -> Answer<UndecidedReports> {
        self.spawn_read(|reader| reader.undecided_reports())
    }

    fn moderator_history(&self, conversation: ConversationId, around: Seq) -> Answer<OkBody<Box<RawValue>>> {
        self.spawn_read(move |reader| reader.moderator_history(&conversation, around))
    }

    fn list_users(&self, query: ListUsers) -> Answer<UserListing> {
        let reads = self.reads.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            reads.spawn(move |reader| reader.list_users(&query, list.as_ref()))
        }))
    }

    fn list_rooms(&self, query: ListRooms) -> Answer<RoomListing> {
        let reads = self.reads.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            reads.spawn(move |reader| reader.list_rooms(&query, list.as_ref()))
        }))
    }

    fn unread(&self, users: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        let (reads, users) = (self.reads.clone(), std::sync::Arc::<[UserId]>::from(users));
        Box::pin(unread_in_steps(users.len(), move |counts| {
            let users = users.clone();
            reads.spawn(move |reader| reader.unread_step(&users, &counts))
        }))
    }

    fn feed(&self, query: FeedQuery) -> Answer<FeedPage> {
        let feed = self.feed.clone();
        self.spawn_read(move |reader| reader.feed(&query, &feed.read()))
    }

    fn feed_news(&self) -> watch::Receiver<u64> {
        self.feed.watch()
    }

    fn missed(&self, query: MissedQuery) -> Answer<MissedPage> {
        let feed = self.feed.clone();
        self.spawn_read(move |reader| reader.missed(&query, &feed.read()))
    }

    fn probe(&self) -> Answer<()> {
        self.spawn_read(|reader| reader.api_key(&[0; 32]).map(drop))
    }

    fn write_fault(&self) -> Option<WriteFault> {
        self.reads.database.state.fault()
    }
}
