use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, Limits, Seq, Timestamp};
use tokio::sync::mpsc;

use super::*;
use crate::bus::NoBus;
use crate::metrics::Metrics;
use crate::router::{Cluster, Parts, peers};
use std::time::Duration;
use switchboard_store::clock::Clock;
use switchboard_store::record::{Answer, Effect, LogEvent, Passage, UserKey};
use switchboard_store::refusal::Refusal;
use switchboard_store::{
    Acquaintance, Batch, CommittedEvent, Excerpt, Memberships, Place, PlacesPage, Query, Revocations, Seqs,
    SharedLog, Snapshot, Standing, Store, Submission, Summaries,
};

/// A store in which every user is a member of the first so many conversations, and which fails for some users.
#[derive(Debug, Default)]
pub(in crate::router) struct Fake {
    conversations: i64,
    /// Queries about these users fail.
    poison: Vec<&'static str>,
    /// Joins and leaves with their events. Without any, queries about single conversations fail.
    passages: Vec<(ConversationKey, Seq, Effect)>,
    seen: Mutex<Seen>,
    /// Whether writes are accepted.
    accepts: bool,
    /// How many writes were accepted since they were last counted.
    submitted: AtomicUsize,
}

impl Fake {
    /// A store that accepts writes.
    pub(in crate::router) fn writable() -> Self {
        Self { accepts: true, ..Self::default() }
    }

    /// A store with these joins and leaves.
    pub(in crate::router) fn of(passages: Vec<(ConversationKey, Seq, Effect)>) -> Self {
        Self { passages, ..Self::default() }
    }

    /// The joins and leaves of one conversation, oldest first.
    fn passages_in(&self, conversation: ConversationKey) -> impl Iterator<Item = (Seq, &Effect)> {
        let passages = self.passages.iter().filter(move |passage| passage.0 == conversation);
        passages.map(|(_, seq, effect)| (*seq, effect))
    }

    fn place(&self, user: &UserId, conversation: ConversationKey) -> Option<Place> {
        let (since, last) =
            self.passages_in(conversation).filter(|(_, effect)| effect.user == *user).last()?;
        let head = self.passages_in(conversation).last()?.0;
        (last.passage != Passage::Out).then_some(Place { conversation, since, head })
    }

    /// How many writes were accepted since the last call.
    pub(in crate::router) fn take_submitted(&self) -> usize {
        self.submitted.swap(0, Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// How many pages of each user were read.
    pages: BTreeMap<String, usize>,
    /// Queries that failed.
    failures: usize,
    /// The memberships of the longest answer.
    longest: usize,
}

fn answer<T: Send + 'static>(result: Result<T, Refusal>) -> Answer<T> {
    Box::pin(std::future::ready(result))
}

fn nothing<T: Send + 'static>() -> Answer<T> {
    answer(Err(Refusal::unavailable()))
}

impl Store for Fake {
    fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        if !self.accepts {
            return Err(Box::new(submission));
        }
        self.submitted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn query(&self, _: &UserId, _: Query) -> Answer<OkBody<Box<RawValue>>> {
        nothing()
    }
    fn attach(&self, _: &UserId, _: Vec<ConversationId>) -> Answer<Option<Snapshot>> {
        nothing()
    }
    fn memberships(&self, _: &UserId, _: UserKey, _: ConversationKey) -> Answer<Memberships> {
        nothing()
    }
    fn summaries(&self, _: &UserId, _: UserKey, _: Vec<ConversationKey>) -> Answer<Summaries> {
        nothing()
    }
    fn replay(&self, _: UserKey, _: ConversationKey, _: Seq, _: Seq) -> Answer<Vec<LogEvent>> {
        nothing()
    }
    fn standing(&self, _: &UserId, _: ConversationId) -> Answer<Standing> {
        nothing()
    }
    fn acquaintances(&self, _: &UserId, _: Vec<UserId>) -> Answer<Vec<Acquaintance>> {
        nothing()
    }
    fn not_before(&self, _: &UserId) -> Answer<Option<Timestamp>> {
        nothing()
    }
    fn api_key(&self, _: [u8; 32]) -> Answer<Option<String>> {
        nothing()
    }
    fn probe(&self) -> Answer<()> {
        nothing()
    }
    fn write_fault(&self) -> Option<switchboard_store::write_fault::WriteFault> {
        None
    }
}

impl SharedLog for Fake {
    fn heads(&self, _: Vec<ConversationKey>) -> Answer<Seqs> {
        answer(Ok(Vec::new()))
    }
    fn revocations(&self, _: Vec<UserId>) -> Answer<Revocations> {
        answer(Ok(Vec::new()))
    }
    fn places(&self, users: Vec<(UserId, ConversationKey)>, most: u32) -> Answer<Vec<PlacesPage>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if users.iter().any(|(user, _)| self.poison.contains(&user.as_str())) {
            seen.failures += 1;
            return nothing();
        }
        let page = |after: ConversationKey| {
            let first = after.0.max(0) + 1;
            let numbers = (first..=self.conversations).take(most as usize);
            let mut page = PlacesPage::default();
            for (rows, number) in (1..).zip(numbers) {
                let conversation = ConversationKey(number);
                let place = Place { conversation, since: Seq(0), head: Seq(1) };
                page.add(conversation, Some(place), rows, most);
            }
            page
        };
        let pages: Vec<_> = users.iter().map(|(_, after)| page(*after)).collect();
        for (user, _) in &users {
            *seen.pages.entry(user.to_string()).or_default() += 1;
        }
        seen.longest = seen.longest.max(pages.iter().map(|page| page.places.len()).sum());
        answer(Ok(pages))
    }
    fn places_in(&self, pairs: Vec<(UserId, ConversationKey)>) -> Answer<Vec<Option<Place>>> {
        if self.passages.is_empty() {
            return nothing();
        }
        answer(Ok(pairs.iter().map(|(user, conversation)| self.place(user, *conversation)).collect()))
    }
    fn log(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Answer<Excerpt> {
        if self.passages.is_empty() {
            return nothing();
        }
        let passages = self.passages_in(conversation).filter(|(seq, _)| after < *seq && *seq <= upto);
        let events = passages.map(|(seq, effect)| CommittedEvent {
            conversation,
            name: ConversationId::parse("#room").expect("a name"),
            seq,
            at: Timestamp::from_millis(0),
            event: None,
            effects: vec![effect.clone()],
        });
        answer(Ok(Excerpt { mark: 0, events: events.collect() }))
    }
}

/// A router with users who are members of all conversations of the store.
pub(in crate::router) fn router(store: &Arc<Fake>, users: &[String]) -> (Router, mpsc::Sender<Batch>) {
    let (batch, batches) = mpsc::channel(1);
    let (_sender, events) = mpsc::channel(1);
    let hour = Duration::from_secs(3_600);
    let cluster = Cluster { store: store.clone(), bus: Arc::new(NoBus), events, sweep: hour, lease: hour };
    let (_, mut router) = crate::router::new(Parts {
        store: store.clone(),
        batches,
        metrics: Arc::new(Metrics::new()),
        clock: Clock::system(),
        limits: Arc::new(Limits::default()),
        grace: hour,
        spread: 0,
        coalesce_from: 32,
        cluster: Some(cluster),
    });
    for name in users {
        let user = router.registry.user_or_new(&UserId::parse(name).expect("a name"));
        for number in 1..=store.conversations {
            router.registry.join(user, ConversationKey(number), Seq(1));
        }
        router.registry.user_mut(user).expect("the user was added").loaded = true;
    }
    router.after_input();
    (router, batch)
}

/// Sweeps once, until no query is pending.
async fn sweep(router: &mut Router) {
    router.sweep();
    router.after_input();
    while router.peers.as_ref().is_some_and(|peers| peers.comparisons.querying_places) {
        let next = peers::next(router.peers.as_mut()).await;
        router.handle_peer_event(next);
        router.after_input();
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_whose_query_fails_does_not_keep_others_from_being_compared() {
    let users: Vec<_> = (0..MAX_USERS).map(|n| format!("u{n}")).collect();
    let store = Arc::new(Fake { conversations: 2, poison: vec!["u123"], ..Fake::default() });
    let (mut router, _batch) = router(&store, &users);
    sweep(&mut router).await;
    let seen = std::mem::take(&mut *store.seen.lock().expect("whole"));
    assert_eq!(seen.pages.len(), users.len() - 1, "all but one");
    assert!(!seen.pages.contains_key("u123"));
    assert!(seen.pages.values().all(|pages| *pages == 1));
    assert!(seen.failures <= 10, "halving: {}", seen.failures);
    sweep(&mut router).await;
    let seen = store.seen.lock().expect("whole");
    assert!(seen.failures > 0, "the next sweep retries");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_reads_a_portion_of_many_memberships_and_the_next_one_continues() {
    let portions = 3;
    let conversations = i64::try_from(PORTION * portions).expect("a number");
    let store = Arc::new(Fake { conversations, ..Fake::default() });
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let pages = PORTION / PAGE as usize;
    for sweeps in 1..=portions {
        sweep(&mut router).await;
        let seen = store.seen.lock().expect("whole");
        assert_eq!(seen.pages["heavy"], sweeps * pages);
        assert!(seen.longest <= PAGE as usize);
    }
    let user = router.registry.find(&UserId::parse("heavy").expect("a name")).expect("here");
    // The last page was full: only the next query shows that none follows.
    sweep(&mut router).await;
    assert_eq!(router.registry.user(user).expect("here").swept, ConversationKey::MIN);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_many_memberships_does_not_keep_others_from_being_compared() {
    let conversations = i64::from(PAGE) * 30;
    let store = Arc::new(Fake { conversations, ..Fake::default() });
    let (mut router, _batch) = router(&store, &["heavy".to_owned()]);
    let heavy = router.registry.find(&UserId::parse("heavy").expect("a name")).expect("here");
    let light = router.registry.user_or_new(&UserId::parse("light").expect("a name"));
    router.registry.user_mut(light).expect("here").loaded = true;
    router.verify(heavy);
    router.after_input();
    router.verify(light);
    for _ in 0..4 {
        let next = peers::next(router.peers.as_mut()).await;
        router.handle_peer_event(next);
        router.after_input();
    }
    let seen = store.seen.lock().expect("whole");
    assert!(seen.pages.contains_key("light"), "a query between the pages: {:?}", seen.pages);
    assert!(seen.pages["heavy"] < 6);
}
