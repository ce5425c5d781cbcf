//! A router in a cluster for tests, with a fake store whose answers the test chooses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp, UserId, UserUnread};
use tokio::sync::mpsc;

use crate::bus::NoBus;
use crate::connections::Connections;
use crate::metrics::Metrics;
use crate::node_name::NodeName;
use crate::router::{ClusterParts, Router, RouterParts};
use switchboard_store::absences::{MissedPage, MissedQuery};
use switchboard_store::ban::Standing;
use switchboard_store::block::BlockList;
use switchboard_store::clock::Clock;
use switchboard_store::feed::{FeedPage, FeedQuery};
use switchboard_store::listing::{
    BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing,
};
use switchboard_store::profile::{ChangePlace, ChangedProfiles, Directory, LastToken, People, PeopleQuery};
use switchboard_store::record::{Answer, ConversationKey, Effect, JoinOrLeave, ReadEvent, UserKey};
use switchboard_store::refusal::Refusal;
use switchboard_store::report::{ListReports, UndecidedReports};
use switchboard_store::{
    Batch, CommittedEvent, CurrentMembership, LogExcerpt, Memberships, MembershipsPage, PresencePeer, Query,
    Revocations, Seqs, SharedLog, Snapshot, Store, Submission, Summaries, WriteAccess,
};

/// A store in which every user is a member of the conversations 1 to `conversations`, and in which queries about some users fail.
#[derive(Debug, Default)]
pub(in crate::router) struct FakeStore {
    conversations: i64,
    /// Queries about these users fail.
    failing_users: Vec<&'static str>,
    /// Joins and leaves with their events. If there are none, queries about single conversations fail.
    joins_and_leaves: Vec<(ConversationKey, Seq, Effect)>,
    pub(super) seen: Mutex<RecordedQueries>,
    /// Whether writes are accepted.
    accepts: bool,
    /// How many writes were accepted since the last [`FakeStore::take_submitted`].
    submitted: AtomicUsize,
}

impl FakeStore {
    /// A store that accepts writes.
    pub(in crate::router) fn writable() -> Self {
        Self { accepts: true, ..Self::default() }
    }

    /// Makes a store in which every user is a member of the conversations 1 to `conversations`. Queries about users in `poison`
    /// fail.
    pub(super) fn with_members(conversations: i64, failing_users: Vec<&'static str>) -> Self {
        Self { conversations, failing_users, ..Self::default() }
    }

    /// A store with these joins and leaves.
    pub(in crate::router) fn with_joins_and_leaves(
        joins_and_leaves: Vec<(ConversationKey, Seq, Effect)>,
    ) -> Self {
        Self { joins_and_leaves, ..Self::default() }
    }

    /// The joins and leaves of one conversation, oldest first.
    fn changes_in(&self, conversation: ConversationKey) -> impl Iterator<Item = (Seq, &Effect)> {
        let joins_and_leaves =
            self.joins_and_leaves.iter().filter(move |join_or_leave| join_or_leave.0 == conversation);
        joins_and_leaves.map(|(_, seq, effect)| (*seq, effect))
    }

    fn membership_of(&self, user: &UserId, conversation: ConversationKey) -> Option<CurrentMembership> {
        let (since, last) =
            self.changes_in(conversation).filter(|(_, effect)| effect.user == *user).last()?;
        let head = self.changes_in(conversation).last()?.0;
        (last.join_or_leave != JoinOrLeave::Leave).then_some(CurrentMembership { conversation, since, head })
    }

    /// Returns how many writes were accepted since the last call.
    pub(in crate::router) fn take_submitted(&self) -> usize {
        self.submitted.swap(0, Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct RecordedQueries {
    /// How many pages of each user were read.
    pub(super) pages: BTreeMap<String, usize>,
    /// How many queries failed.
    pub(super) failures: usize,
    /// How many memberships the longest answer had.
    pub(super) longest: usize,
}

fn answer<T: Send + 'static>(result: Result<T, Refusal>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

fn unavailable<T: Send + 'static>() -> Answer<T> {
    answer(Err(Refusal::unavailable()))
}

impl Store for FakeStore {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        if !self.accepts {
            return Err(Box::new(submission));
        }
        self.submitted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn query(&self, _: &UserId, _: Query) -> Answer<OkBody<Box<RawValue>>> {
        unavailable()
    }
    fn attach(&self, _: &UserId, _: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        unavailable()
    }
    fn memberships(&self, _: &UserId, _: UserKey, _: ConversationKey) -> Answer<Memberships> {
        unavailable()
    }
    fn summaries(&self, _: &UserId, _: UserKey, _: Vec<ConversationKey>) -> Answer<Summaries> {
        unavailable()
    }
    fn replay(&self, _: UserKey, _: ConversationKey, _: Seq, _: Seq) -> Answer<Vec<ReadEvent>> {
        unavailable()
    }
    fn check_write_access(&self, _: &UserId, _: ConversationId) -> Answer<WriteAccess> {
        unavailable()
    }
    fn presence_peers(&self, _: &UserId, _: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        unavailable()
    }
    fn people(&self, _: &UserId, _: PeopleQuery, _: Directory) -> Answer<People> {
        unavailable()
    }
    fn last_token(&self, _: &UserId) -> Answer<Option<LastToken>> {
        unavailable()
    }
    fn list_reports(&self, _: ListReports) -> Answer<ReportListing> {
        unavailable()
    }
    fn undecided_reports(&self) -> Answer<UndecidedReports> {
        unavailable()
    }
    fn moderator_history(&self, _: ConversationId, _: Seq) -> Answer<OkBody<Box<RawValue>>> {
        unavailable()
    }
    fn list_bans(&self, _: ListBans) -> Answer<BanListing> {
        unavailable()
    }
    fn standing(&self, _: &UserId) -> Answer<Standing> {
        unavailable()
    }
    fn api_key(&self, _: [u8; 32]) -> Answer<Option<switchboard_store::grant::KeyGrant>> {
        unavailable()
    }
    fn list_users(&self, _: ListUsers) -> Answer<UserListing> {
        unavailable()
    }
    fn list_rooms(&self, _: ListRooms) -> Answer<RoomListing> {
        unavailable()
    }
    fn unread(&self, _: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        unavailable()
    }
    fn feed(&self, _: FeedQuery) -> Answer<FeedPage> {
        unavailable()
    }
    fn feed_news(&self) -> tokio::sync::watch::Receiver<u64> {
        tokio::sync::watch::Sender::new(0).subscribe()
    }
    fn missed(&self, _: MissedQuery) -> Answer<MissedPage> {
        unavailable()
    }
    fn probe(&self) -> Answer<()> {
        unavailable()
    }
    fn write_fault(&self) -> Option<switchboard_store::write_fault::WriteFault> {
        None
    }
}

impl SharedLog for FakeStore {
    fn heads(&self, _: Vec<ConversationKey>) -> Answer<Seqs> {
        answer(Ok(Vec::new()))
    }
    fn changed_blocks(&self, _: Vec<(UserId, u64)>) -> Answer<Vec<(UserId, BlockList)>> {
        answer(Ok(Vec::new()))
    }
    fn changed_profiles(&self, _: ChangePlace, _: u32) -> Answer<ChangedProfiles> {
        answer(Ok(ChangedProfiles::default()))
    }
    fn revocations(&self, _: Vec<UserId>) -> Answer<Revocations> {
        answer(Ok(Vec::new()))
    }
    fn membership_pages(
        &self,
        users: Vec<(UserId, ConversationKey)>,
        most: u32,
    ) -> Answer<Vec<MembershipsPage>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if users.iter().any(|(user, _)| self.failing_users.contains(&user.as_str())) {
            seen.failures += 1;
            return unavailable();
        }
        let page = |after: ConversationKey| {
            let first = after.0.max(0) + 1;
            let numbers = (first..=self.conversations).take(most as usize);
            let mut page = MembershipsPage::default();
            for (rows, number) in (1..).zip(numbers) {
                let conversation = ConversationKey(number);
                let place = CurrentMembership { conversation, since: Seq(0), head: Seq(1) };
                page.add(conversation, Some(place), rows, most);
            }
            page
        };
        let pages: Vec<_> = users.iter().map(|(_, after)| page(*after)).collect();
        for (user, _) in &users {
            *seen.pages.entry(user.to_string()).or_default() += 1;
        }
        seen.longest = seen.longest.max(pages.iter().map(|page| page.memberships.len()).sum());
        answer(Ok(pages))
    }
    fn current_memberships(
        &self,
        pairs: Vec<(UserId, ConversationKey)>,
    ) -> Answer<Vec<Option<CurrentMembership>>> {
        if self.joins_and_leaves.is_empty() {
            return unavailable();
        }
        answer(Ok(pairs.iter().map(|(user, conversation)| self.membership_of(user, *conversation)).collect()))
    }
    fn read_log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<LogExcerpt> {
        if self.joins_and_leaves.is_empty() {
            return unavailable();
        }
        let joins_and_leaves = self.changes_in(conversation).filter(|(seq, _)| after < *seq && *seq <= upto);
        let events = joins_and_leaves.map(|(seq, effect)| CommittedEvent {
            conversation,
            name: ConversationId::parse("#room").expect("a name"),
            seq,
            at: Timestamp::from_millis(0),
            replaced: None,
            event: None,
            effects: vec![effect.clone()],
            is_imported: false,
        });
        answer(Ok(LogExcerpt { mark: 0, events: events.collect() }))
    }
}

/// A router with users who are members of all conversations of the store.
pub(in crate::router) fn router(store: &Arc<FakeStore>, users: &[String]) -> (Router, mpsc::Sender<Batch>) {
    let (batch, batches) = mpsc::channel(1);
    let (_sender, events) = mpsc::channel(1);
    let hour = Duration::from_secs(3_600);
    let cluster = ClusterParts {
        store: store.clone(),
        bus: Arc::new(NoBus),
        events,
        sweep_interval: hour,
        lease: hour,
        nodes: Arc::default(),
        connections: Connections::new(NodeName::of_host()),
    };
    let (_, mut router) = crate::router::new(RouterParts {
        store: store.clone(),
        batches,
        metrics: Arc::new(Metrics::new()),
        clock: Clock::system(),
        limits: Arc::new(Limits::default()),
        grace: hour,
        reconnect_spread_ms: 0,
        coalesce_from: 32,
        cluster: Some(cluster),
        attendees: Arc::default(),
    });
    for name in users {
        let registry = &mut router.node.registry;
        let user = registry.user_or_new(&UserId::parse(name).expect("a name"));
        for number in 1..=store.conversations {
            registry.add_member(user, ConversationKey(number), Seq(1));
        }
        registry.user_mut(user).expect("the user was added").is_loaded = true;
    }
    update_after_input(&mut router);
    (router, batch)
}

/// Does the work that a router does after each input.
pub(super) fn update_after_input(router: &mut Router) {
    let cluster = router.cluster.as_mut().expect("a cluster");
    cluster.update_after_input(&mut router.node);
}

/// Waits for the next work of the cluster, and handles it.
pub(super) async fn handle_next(router: &mut Router) {
    let cluster = router.cluster.as_mut().expect("a cluster");
    let next = cluster.next().await;
    cluster.handle(&mut router.node, next);
}
