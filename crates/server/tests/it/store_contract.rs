//! The contract suite of the stores (`crates/store/src/lib.rs`): each contract is a function, and every store must pass it.

mod access;
mod feed;
mod messages;
mod on_postgres;
mod pages;
mod people;
mod permissions;
mod profiles;
mod vectors;
mod writes;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use switchboard_protocol::reply::{Message, OkBody, Summary};
use switchboard_protocol::{ErrorCode, Event, Limits, Seq};
use switchboard_store::CommitMetrics;
use switchboard_store::clock::Clock;
use switchboard_store::origin::Origin;
use switchboard_store::postgres::PostgresStore;
use switchboard_store::refusal::Refusal;
use switchboard_store::sqlite::memory::{CommitFault, DiskControl, MemoryDisk, MemoryStore};
use switchboard_store::sqlite::{Settings, SqliteStore};
use switchboard_store::{
    Batch, Change, Committed, CommittedEvent, Outcome, Query, Request, SharedStore, Snapshot, Submission,
    Summaries, VisibleConversation,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::support::{command, conversation, in_time, user};

/// A function that opens a store on a data directory.
type OpenStore = fn(&Path, StoreRules) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)>;

/// The limits and settings of a store.
#[derive(Clone)]
struct StoreRules {
    limits: Limits,
    allow_unknown_users: bool,
    clock: Clock,
}

impl Default for StoreRules {
    fn default() -> Self {
        Self { limits: Limits::default(), allow_unknown_users: true, clock: Clock::system() }
    }
}

fn sqlite(data: &Path, rules: StoreRules) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)> {
    let StoreRules { limits, allow_unknown_users: strangers, clock } = rules;
    let metrics = CommitMetrics::default();
    let (store, batches) = SqliteStore::open(Settings {
        data: data.to_owned(),
        limits,
        strangers,
        tells_reads: false,
        clock,
        metrics,
    })?;
    Ok((Arc::new(store), batches))
}

/// Opens a database in memory. The directory only identifies it: opening the same directory again finds the same data.
fn memory(data: &Path, rules: StoreRules) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)> {
    open_memory_store(data, rules, MemoryStore::open)
}

/// Opens a database in memory that any number of stores may share.
fn joined_memory(data: &Path, rules: StoreRules) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)> {
    open_memory_store(data, rules, MemoryStore::open_shared)
}

type OpenMemoryStore =
    fn(&MemoryDisk, &Settings, Arc<dyn DiskControl>) -> anyhow::Result<(MemoryStore, mpsc::Receiver<Batch>)>;

fn open_memory_store(
    data: &Path,
    rules: StoreRules,
    open: OpenMemoryStore,
) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)> {
    static DISK_OF_DIRECTORY: Mutex<BTreeMap<PathBuf, MemoryDisk>> = Mutex::new(BTreeMap::new());
    let StoreRules { limits, allow_unknown_users: strangers, clock } = rules;
    let metrics = CommitMetrics::default();
    let disk = match DISK_OF_DIRECTORY.lock().expect("no test panics with it").entry(data.to_owned()) {
        Entry::Occupied(disk) => disk.get().clone(),
        Entry::Vacant(place) => place.insert(MemoryDisk::new()?).clone(),
    };
    let settings = Settings { data: data.to_owned(), limits, strangers, tells_reads: false, clock, metrics };
    let (store, batches) = open(&disk, &settings, Arc::new(NoFaults))?;
    Ok((Arc::new(store), batches))
}

/// Opens a database for the directory in the PostgreSQL that all tests share.
fn postgres(data: &Path, rules: StoreRules) -> anyhow::Result<(SharedStore, mpsc::Receiver<Batch>)> {
    static DATABASE_OF_DIRECTORY: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let StoreRules { limits, allow_unknown_users: strangers, clock } = rules;
    let url = match DATABASE_OF_DIRECTORY.lock().expect("no test panics with it").entry(data.to_owned()) {
        Entry::Occupied(url) => url.get().clone(),
        Entry::Vacant(place) => place.insert(on_postgres::new_database()?).clone(),
    };
    let settings = on_postgres::settings(&url);
    let (store, batches) = PostgresStore::open(switchboard_store::postgres::Settings {
        limits,
        strangers,
        tells_reads: false,
        clock,
        ..settings
    })?;
    Ok((Arc::new(store), batches))
}

/// Used for stores that have no simulated delays and faults.
struct NoFaults;

impl DiskControl for NoFaults {
    fn next_delay(&self) -> Duration {
        Duration::ZERO
    }

    fn next_fault(&self) -> CommitFault {
        CommitFault::Durable
    }

    fn on_commit(&self, _: &[Outcome]) {}
}

/// Defines a test for each contract, which runs the contract on one store.
macro_rules! contract_tests {
    ($store:ident, $($own:ident::$contract:ident),+) => {
        contract_tests!($store:
            writes::outcomes_arrive_in_commit_order_and_seqs_have_no_gap,
            writes::a_reported_outcome_is_visible_to_readers_and_after_reopening,
            writes::time_never_goes_back_within_a_conversation,
            writes::a_key_is_stored_once_per_sender,
            writes::an_idempotency_key_outlives_its_message_and_membership,
            writes::refusals_arrive_in_order_and_store_nothing,
            writes::a_repeated_change_returns_the_event_of_the_first,
            writes::a_direct_conversation_begins_with_its_first_message,
            writes::unknown_user_ids_can_be_refused,
            writes::a_check_stores_nothing_and_finds_what_would_be_refused_or_repeated,
            writes::a_change_that_repeats_nothing_is_not_stored_as_a_repeat,
            messages::history_shows_messages_in_their_current_state,
            messages::a_deletion_leaves_no_content,
            messages::reactions_are_added_and_removed,
            messages::a_reaction_with_and_without_u_fe0f_is_the_same,
            messages::edits_reactions_and_deletions_need_an_existing_message,
            messages::a_replaced_message_is_compared_with_its_request,
            messages::a_former_member_sees_messages_in_their_state_at_the_leave_event,
            pages::a_page_of_the_log_is_bounded_in_events_and_bytes,
            pages::a_page_of_history_is_bounded_in_messages_and_bytes,
            pages::a_page_of_history_matches_its_head_during_writes,
            pages::a_page_of_history_around_an_event_has_half_on_each_side,
            pages::a_page_around_an_event_is_found_across_other_events_and_bounded_in_bytes,
            pages::a_page_around_a_missing_event_is_refused_with_the_field,
            pages::conversations_are_paged_by_their_latest_activity,
            pages::members_are_paged_in_the_order_in_which_users_were_created,
            pages::a_replay_is_the_log_between_two_events,
            pages::a_snapshots_mark_bounds_its_events,
            access::non_members_receive_the_same_refusal_for_every_command,
            access::a_former_member_sees_the_log_up_to_their_leave_event,
            access::readers_cannot_write_and_only_admins_change_the_room,
            access::a_reader_who_leaves_and_rejoins_is_still_a_reader,
            access::an_api_key_can_add_a_user_to_an_empty_room,
            people::cursors_move_forward_up_to_the_head,
            people::unread_counts_messages_of_others,
            people::welcome_counts_unread_over_the_latest_conversations,
            people::a_user_who_rejoins_has_read_the_earlier_messages,
            people::only_users_who_share_a_conversation_are_presence_peers,
            people::a_snapshot_has_the_users_own_conversations,
            people::tokens_are_revoked_up_to_the_latest_time,
            permissions::a_user_reaches_first_whom_the_permissions_name,
            permissions::a_user_who_was_written_to_may_answer,
            permissions::shared_conversations_count_where_the_permissions_say_so,
            permissions::cursors_in_a_direct_conversation_are_private_until_both_have_written,
            profiles::a_change_of_a_profile_changes_only_the_fields_that_it_names,
            profiles::a_user_sees_the_profiles_of_users_with_a_shared_conversation,
            profiles::users_are_found_by_the_beginning_of_a_word,
            profiles::a_page_of_profiles_is_bounded_in_users_and_bytes,
            profiles::names_are_on_pages_of_members_and_in_summaries,
            profiles::a_deactivated_user_cannot_sign_in_and_keeps_the_name,
            profiles::a_token_changes_the_profile_only_if_it_is_newer_and_has_other_claims,
            feed::every_event_is_in_the_feed_once_and_in_the_order_of_its_log,
            feed::an_entry_has_its_event_as_the_log_has_it_now,
            feed::a_query_leaves_out_what_its_types_and_its_pattern_do_not_name,
            feed::a_pattern_reads_a_conversation_up_to_the_last_leave_of_its_users,
            feed::a_cursor_that_the_feed_does_not_have_is_refused_with_those_it_has,
            feed::feed_news_announce_every_commit,
            vectors::events_fold_to_the_messages_of_the_vectors,
            $($own::$contract,)+
        );
    };
    ($store:ident: $($part:ident::$contract:ident,)*) => {
        mod $store {
            $(#[tokio::test]
            async fn $contract() {
                super::$part::$contract(super::$store).await;
            })*
        }
    };
}

contract_tests!(sqlite, opening::a_second_opener_is_refused);
contract_tests!(memory, opening::a_second_opener_is_refused);
contract_tests!(joined_memory, opening::two_nodes_write_one_log);
contract_tests!(postgres, opening::two_nodes_write_one_log);

/// The contracts about opening a store.
mod opening {
    use serde_json::json;
    use switchboard_protocol::Seq;
    use switchboard_protocol::reply::OkBody;

    use super::{OpenStore, StoreRules, TestStore, change, seqs};

    pub(super) async fn a_second_opener_is_refused(open: OpenStore) {
        let mut db = TestStore::new(open).await;
        let second = open(db.data.path(), StoreRules::default()).map(|_| ());
        let error = second.expect_err("one at a time").to_string();
        assert!(error.contains("another"), "{error}");
        db.says("alice", "@bob", "unharmed").await;
        db.reopen().await;
        assert_eq!(db.log("bob", "@alice:bob").await.len(), 1);
    }

    pub(super) async fn two_nodes_write_one_log(open: OpenStore) {
        let mut one = TestStore::new(open).await;
        let (store, batches) = open(one.data.path(), StoreRules::default()).expect("a second node");
        one.stores("alice", "create", json!({"room": "r", "members": ["bob"]})).await;
        let change = |name: &str, n: u32| change("send", &json!({"to": name, "text": n.to_string()}));
        let (one, mut other) = (one, TestStore { store, batches, ..TestStore::new(open).await });
        for n in 0..200 {
            one.submits("alice", change("#r", n));
            other.submits("bob", change("#r", n));
            one.submits("alice", change("@bob", n));
            other.submits("bob", change("@alice", n));
        }
        let mut one = one;
        for _ in 0..400 {
            one.next_outcome().await.expect("stored");
            other.next_outcome().await.expect("stored");
        }
        for (name, count) in [("#r", 401), ("@alice:bob", 400)] {
            let mut log = Vec::new();
            while let Ok(OkBody::Log { events, more, .. }) = one
                .query_page("bob", "sync", json!({"conversation": name, "after": log.len(), "limit": 200}))
                .await
            {
                log.extend(events);
                if !more {
                    break;
                }
            }
            assert_eq!(seqs(&log), (1..=count).map(Seq).collect::<Vec<_>>(), "{name}");
        }
    }
}

/// A store on its own data directory, with what it has reported.
struct TestStore {
    open: OpenStore,
    rules: StoreRules,
    data: TempDir,
    store: SharedStore,
    batches: mpsc::Receiver<Batch>,
    /// The number of the last batch that the store has reported.
    number: u64,
    /// Outcomes that were received but that no method has returned yet.
    outcomes: std::collections::VecDeque<Result<Committed, Refusal>>,
}

impl TestStore {
    async fn new(open: OpenStore) -> Self {
        Self::open_with(open, StoreRules::default()).await
    }

    #[expect(clippy::unused_async, reason = "a store of another kind may have to be waited for")]
    async fn open_with(open: OpenStore, rules: StoreRules) -> Self {
        let data = TempDir::new().expect("a directory");
        let (store, batches) = open(data.path(), rules.clone()).expect("a store");
        let outcomes = std::collections::VecDeque::new();
        Self { open, rules, data, store, batches, number: 0, outcomes }
    }

    /// Closes the store and opens it again.
    async fn reopen(&mut self) {
        let nothing = mpsc::channel(1).1;
        let elsewhere = TempDir::new().expect("a directory");
        let (store, _) = (self.open)(elsewhere.path(), StoreRules::default()).expect("a store");
        drop(std::mem::replace(&mut self.store, store));
        let mut batches = std::mem::replace(&mut self.batches, nothing);
        in_time("the store ends", async { while batches.recv().await.is_some() {} }).await;
        let (store, batches) = (self.open)(self.data.path(), self.rules.clone()).expect("a store");
        (self.store, self.batches, self.number) = (store, batches, 0);
    }

    /// Submits a change without waiting for its outcome.
    fn submits(&self, actor: &str, change: Change) {
        let submission = Submission { actor: user(actor), change, origin: Origin::Internal };
        self.store.submit(submission).expect("there is room");
    }

    /// Returns the next outcome.
    async fn next_outcome(&mut self) -> Result<Committed, Refusal> {
        while self.outcomes.is_empty() {
            let batch = in_time("an outcome", self.batches.recv()).await.expect("the store runs");
            self.number += 1;
            assert_eq!(batch.number, self.number, "batches are numbered 1, 2, 3, …");
            self.outcomes.extend(batch.outcomes.into_iter().map(|outcome| outcome.result));
        }
        self.outcomes.pop_front().expect("there is one")
    }

    /// Submits a change and waits for its outcome.
    async fn tries(&mut self, actor: &str, name: &str, fields: Value) -> Result<Committed, Refusal> {
        self.submits(actor, change(name, &fields));
        self.next_outcome().await
    }

    /// Submits a change, which must be stored as an event.
    async fn stores(&mut self, actor: &str, name: &str, fields: Value) -> CommittedEvent {
        let sent = fields.to_string();
        match self.tries(actor, name, fields).await {
            Ok(Committed::Event(event)) => *event,
            other => panic!("{actor} says {name} {sent}: {other:?}"),
        }
    }

    /// Submits a message and returns its seq.
    async fn says(&mut self, actor: &str, to: &str, text: &str) -> u64 {
        self.stores(actor, "send", serde_json::json!({"to": to, "text": text})).await.seq.0
    }

    /// Submits a change, which must be refused, and returns the error code.
    async fn is_refused(&mut self, actor: &str, name: &str, fields: Value) -> ErrorCode {
        let sent = fields.to_string();
        self.tries(actor, name, fields)
            .await
            .err()
            .unwrap_or_else(|| panic!("{actor} may {name} {sent}"))
            .code
    }

    /// Runs a query that returns a page.
    async fn query_page(&self, actor: &str, name: &str, fields: Value) -> Result<OkBody, Refusal> {
        let query = match Request::from(command(name, &fields)) {
            Request::Query(query) => query,
            other => panic!("{other:?} is no query"),
        };
        self.run_query(actor, query).await
    }

    async fn run_query(&self, actor: &str, query: Query) -> Result<OkBody, Refusal> {
        let page = in_time("a page", self.store.query(&user(actor), query)).await?;
        let json = serde_json::to_string(&page).expect("JSON");
        Ok(serde_json::from_str(&json).expect("what a client understands"))
    }

    /// The events of a conversation that a user sees in its log.
    async fn log(&self, actor: &str, name: &str) -> Vec<Event> {
        let page =
            self.query_page(actor, "sync", serde_json::json!({"conversation": name, "limit": 200})).await;
        match page {
            Ok(OkBody::Log { events, more: false, .. }) => events,
            other => panic!("no whole log but {other:?}"),
        }
    }

    /// The messages of a conversation that a user sees in its history.
    async fn history(&self, actor: &str, name: &str) -> Vec<Message> {
        match self.query_page(actor, "history", serde_json::json!({"conversation": name})).await {
            Ok(OkBody::History { messages, more: false, .. }) => messages,
            other => panic!("no whole history but {other:?}"),
        }
    }

    /// The conversations of a user.
    async fn conversations(&self, actor: &str) -> Vec<Summary> {
        match self.query_page(actor, "conversations", serde_json::json!({})).await {
            Ok(OkBody::Conversations { conversations, more: false }) => conversations,
            other => panic!("not all conversations but {other:?}"),
        }
    }

    /// The summary that a user gets of a conversation.
    async fn summary(&self, actor: &str, name: &str) -> Summary {
        let all = self.conversations(actor).await;
        all.into_iter().find(|one| one.conversation.as_str() == name).expect("a member")
    }

    /// The snapshot that a new connection of a user gets; `named` are the conversations with cursors in its `hello`.
    async fn snapshot(&self, actor: &str, named: &[&str]) -> Option<Snapshot> {
        let named = named.iter().map(|name| conversation(name)).collect();
        in_time("a snapshot", self.store.attach(&user(actor), named)).await.expect("a snapshot")
    }

    /// The summaries in `welcome` of a user, over all pages of memberships.
    async fn summaries(&self, actor: &str) -> Summaries {
        let Snapshot { user: key, mut memberships, summaries, .. } =
            self.snapshot(actor, &[]).await.expect("a user who was seen");
        if let Some(summaries) = summaries {
            return summaries;
        }
        let mut latest = memberships.latest;
        while let Some(after) = memberships.next {
            memberships = in_time("memberships", self.store.memberships(&user(actor), key, after))
                .await
                .expect("a page");
            latest.append(&mut memberships.latest);
        }
        latest.sort_unstable_by(|one, other| other.cmp(one));
        latest.truncate(Limits::MAX_UNREAD_CONVERSATIONS + 1);
        let latest = latest.iter().map(|latest| latest.conversation).collect();
        in_time("summaries", self.store.summaries(&user(actor), key, latest)).await.expect("summaries")
    }

    /// The snapshot of a user, and what the user may see of a conversation.
    async fn snapshot_and_conversation(
        &self,
        actor: &str,
        name: &str,
    ) -> (Snapshot, Option<VisibleConversation>) {
        let mut snapshot = self.snapshot(actor, &[name]).await.expect("a known user");
        let seen = snapshot.named.pop().expect("one for each name").ok();
        (snapshot, seen)
    }
}

/// Converts a command with this name and these fields to a change.
fn change(name: &str, fields: &Value) -> Change {
    match Request::from(command(name, fields)) {
        Request::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

/// The seqs of the events in a log.
fn seqs(log: &[Event]) -> Vec<Seq> {
    log.iter().map(|event| event.seq).collect()
}
