//! The threads that read. Each has its own connection, so that a page never waits for a write.

use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Seq, UserId, UserUnread};
use tokio::sync::oneshot;

use super::change::OperationError;
use super::fair_queue::{FairQueue, LaneOwner, NextJob};
use super::read::listing::{ListLookups, listing_in_steps, unread_in_steps};
use super::read::{LookupResult, Reader, list};
use super::{Memberships, PresencePeer, Query, Snapshot, Summaries, WriteAccess};
use crate::ban::Standing;
use crate::grant::KeyGrant;
use crate::listing::{BanListing, ListBans, ListRooms, ListUsers, ReportListing, RoomListing, UserListing};
use crate::profile::{Directory, LastToken, People, PeopleQuery};
use crate::record::{Answer, ConversationKey, ReadEvent, UserKey};
use crate::refusal::Refusal;
use crate::report::{ListReports, UndecidedReports};

/// A channel that is disconnected once the readers' connections are closed.
pub(super) type ReadersClosedSignal = Receiver<Infallible>;

/// A reader thread's connection to the database.
pub(super) trait ReaderConnection: Send + 'static {
    /// The queries that run on this connection.
    type Rows: ListLookups;

    /// How long the thread waits without a read before it calls [`Self::free_memory`].
    const IDLE_TIMEOUT: Duration;

    /// Runs a read in one transaction. The implementation may run it again if the transaction fails.
    fn read<T>(
        &mut self,
        read: impl Fn(&Reader<'_, Self::Rows>) -> LookupResult<T, Self::Rows>,
    ) -> Result<T, Refusal>;

    /// Ends the transaction if it is still open. The caller already has the answer.
    fn end(&mut self) {}

    /// Frees memory. Called once in each idle period.
    fn free_memory(&mut self);
}

/// A queued read.
pub(super) type Job<D> = Box<dyn FnOnce(&mut D) + Send>;

/// The reader threads; they end when this is dropped.
pub(super) struct Readers<D> {
    queue: Queue<D>,
}

/// A handle to the queue of the reader threads.
struct Queue<D> {
    read_queue: Arc<FairQueue<Job<D>>>,
}

impl<D> Clone for Queue<D> {
    fn clone(&self) -> Self {
        Self { read_queue: self.read_queue.clone() }
    }
}

impl<D: ReaderConnection> Readers<D> {
    pub(super) fn start(
        name: &str,
        connections: impl IntoIterator<Item = anyhow::Result<D>>,
    ) -> anyhow::Result<(Self, ReadersClosedSignal)> {
        let readers = Self { queue: Queue { read_queue: Arc::new(FairQueue::new()) } };
        let (open_still, closed) = crossbeam_channel::bounded(0);
        for (n, connection) in connections.into_iter().enumerate() {
            let (mut connection, turns, open_still) =
                (connection?, readers.queue.read_queue.clone(), open_still.clone());
            std::thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                run(&mut connection, &turns);
                drop(connection);
                drop(open_still);
            })?;
        }
        Ok((readers, closed))
    }

    /// The queue of reads that wait for these threads.
    pub(super) fn read_queue(&self) -> Arc<FairQueue<Job<D>>> {
        self.queue.read_queue.clone()
    }

    /// Queues a read in the lane of `who`, and runs it in one transaction on one of the threads.
    pub(super) fn read<T, F>(&self, who: LaneOwner, read: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(&Reader<'_, D::Rows>) -> LookupResult<T, D::Rows> + Send + 'static,
    {
        self.queue.read(who, read)
    }
}

impl<D: ReaderConnection> Queue<D> {
    fn read<T, F>(&self, who: LaneOwner, read: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(&Reader<'_, D::Rows>) -> LookupResult<T, D::Rows> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job<D> = Box::new(move |connection| {
            // The caller may have been dropped while the read was queued.
            if !reply.is_closed() {
                let _ = reply.send(connection.read(read));
            }
        });
        let queued = self.read_queue.push(who, job);
        Box::pin(async move {
            queued?;
            answer.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
        })
    }
}

/// The queries of a store.
impl<D: ReaderConnection> Readers<D> {
    pub(super) fn query(&self, user: &UserId, query: Query) -> Answer<OkBody<Box<RawValue>>> {
        let user = user.clone();
        let Query::Conversations(command) = query else {
            return self.read(LaneOwner::User(user.clone()), move |reader| reader.answer(&user, &query));
        };
        let queue = self.queue.clone();
        Box::pin(list::list_in_steps(move |list| {
            let (user, command) = (user.clone(), command.clone());
            queue.read(LaneOwner::User(user.clone()), move |reader| {
                reader.list(&user, &command, list.as_ref())
            })
        }))
    }

    pub(super) fn memberships(
        &self,
        user: &UserId,
        key: UserKey,
        after: ConversationKey,
    ) -> Answer<Memberships> {
        self.read(LaneOwner::User(user.clone()), move |reader| reader.memberships(key, after))
    }

    pub(super) fn summaries(
        &self,
        user: &UserId,
        key: UserKey,
        of: Vec<ConversationKey>,
    ) -> Answer<Summaries> {
        self.read(LaneOwner::User(user.clone()), move |reader| reader.summaries_for(key, &of))
    }

    pub(super) fn attach(&self, user: &UserId, named: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        let user = user.clone();
        self.read(LaneOwner::User(user.clone()), move |reader| reader.attach(&user, &named))
    }

    pub(super) fn replay(
        &self,
        user: UserKey,
        conversation: ConversationKey,
        after: Seq,
        upto: Seq,
    ) -> Answer<Vec<ReadEvent>> {
        self.read(LaneOwner::Replays(user), move |reader| reader.replay(user, conversation, after, upto))
    }

    pub(super) fn write_access(&self, user: &UserId, conversation: ConversationId) -> Answer<WriteAccess> {
        let user = user.clone();
        self.read(LaneOwner::User(user.clone()), move |reader| reader.write_access(&user, &conversation))
    }

    pub(super) fn presence_peers(&self, user: &UserId, others: Vec<UserId>) -> Answer<Vec<PresencePeer>> {
        let user = user.clone();
        self.read(LaneOwner::User(user.clone()), move |reader| reader.presence_peers(&user, &others))
    }

    pub(super) fn people(&self, user: &UserId, query: PeopleQuery, directory: Directory) -> Answer<People> {
        let user = user.clone();
        self.read(LaneOwner::User(user.clone()), move |reader| reader.people(&user, &query, directory))
    }

    pub(super) fn last_token(&self, user: &UserId) -> Answer<Option<LastToken>> {
        let user = user.clone();
        self.read(LaneOwner::Token(user.clone()), move |reader| reader.last_token(&user))
    }

    pub(super) fn standing(&self, user: &UserId) -> Answer<Standing> {
        let user = user.clone();
        self.read(LaneOwner::Token(user.clone()), move |reader| reader.standing(&user))
    }

    pub(super) fn list_users(&self, query: ListUsers) -> Answer<UserListing> {
        let queue = self.queue.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            queue.read(LaneOwner::Lists, move |reader| reader.list_users(&query, list.as_ref()))
        }))
    }

    pub(super) fn list_bans(&self, query: ListBans) -> Answer<BanListing> {
        let queue = self.queue.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            queue.read(LaneOwner::Lists, move |reader| reader.list_bans(&query, list.as_ref()))
        }))
    }

    pub(super) fn list_reports(&self, query: ListReports) -> Answer<ReportListing> {
        let queue = self.queue.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            queue.read(LaneOwner::Lists, move |reader| reader.list_reports(&query, list.as_ref()))
        }))
    }

    pub(super) fn undecided_reports(&self) -> Answer<UndecidedReports> {
        self.read(LaneOwner::Lists, |reader| reader.undecided_reports())
    }

    pub(super) fn moderator_history(
        &self,
        conversation: ConversationId,
        around: Seq,
    ) -> Answer<OkBody<Box<RawValue>>> {
        self.read(LaneOwner::Lists, move |reader| reader.moderator_history(&conversation, around))
    }

    pub(super) fn list_rooms(&self, query: ListRooms) -> Answer<RoomListing> {
        let queue = self.queue.clone();
        Box::pin(listing_in_steps(move |list| {
            let query = query.clone();
            queue.read(LaneOwner::Lists, move |reader| reader.list_rooms(&query, list.as_ref()))
        }))
    }

    pub(super) fn unread(&self, users: Vec<UserId>) -> Answer<Vec<UserUnread>> {
        let (queue, users) = (self.queue.clone(), Arc::<[UserId]>::from(users));
        Box::pin(unread_in_steps(users.len(), move |counts| {
            let users = users.clone();
            queue.read(LaneOwner::Lists, move |reader| reader.unread_step(&users, &counts))
        }))
    }

    pub(super) fn probe(&self) -> Answer<()> {
        // The probe can be any read. No key has this hash.
        self.read(LaneOwner::Probe, |reader| reader.api_key(&[0; 32]).map(drop))
    }

    pub(super) fn api_key(&self, hash: [u8; 32]) -> Answer<Option<KeyGrant>> {
        self.read(LaneOwner::ApiKeyHash(hash), move |reader| reader.api_key(&hash))
    }
}

impl<D> Drop for Readers<D> {
    fn drop(&mut self) {
        self.queue.read_queue.close();
    }
}

impl<D> std::fmt::Debug for Readers<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

/// Converts a failed read into the refusal for the caller, and logs errors of the store.
pub(super) fn failure_to_refusal<T, E: Display>(answer: Result<T, OperationError<E>>) -> Result<T, Refusal> {
    answer.map_err(|failed| match failed {
        OperationError::Refused(refusal) => refusal,
        OperationError::Store(error) => {
            tracing::error!(%error, "cannot read the database");
            Refusal::unavailable()
        }
        // Only changes can end this way, so a read never does.
        OperationError::Uncounted | OperationError::Checked => Refusal::unavailable(),
    })
}

fn run<D: ReaderConnection>(connection: &mut D, turns: &FairQueue<Job<D>>) {
    let mut idle_timeout = Some(D::IDLE_TIMEOUT);
    loop {
        match turns.take(idle_timeout) {
            NextJob::Run(who, job) => {
                // A panic in a read must not end the thread, because later reads need it.
                let read = catch_unwind(AssertUnwindSafe(|| job(connection)));
                if read.is_err() {
                    tracing::error!("a read panicked; it was answered as unavailable");
                }
                // The panic hook has logged the panic.
                let _ = catch_unwind(AssertUnwindSafe(|| connection.end()));
                turns.finish_job(who);
                idle_timeout = Some(D::IDLE_TIMEOUT);
            }
            NextJob::TimedOut => {
                let _ = catch_unwind(AssertUnwindSafe(|| connection.free_memory()));
                idle_timeout = None;
            }
            NextJob::End => return,
        }
    }
}
