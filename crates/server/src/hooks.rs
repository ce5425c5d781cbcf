//! The hook: asks the application's back end before something is stored, and before a user is connected.
//!
//! A question is asked while no lock of the store is held: a [`Change::Check`] finds out first whether the change would be
//! refused or repeats an earlier one, and the change itself is checked again when it is stored. docs/protocol.md#hooks

mod answer;
mod breaker;
mod client;
mod keys;
mod places;
mod question;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{ConversationId, HOLD, History, Limits, Permissions, Target, UserId};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wildmatch::WildMatch;

use self::answer::{Action, Opened};
use self::breaker::Breaker;
use self::client::HookClient;
use self::keys::{KeyTurn, Keys};
use self::places::Places;
use crate::config::{Ask, Config, HooksConfig, OnFailure};
use crate::metrics::{HookFailure as Failure, HookMetrics, Metrics};
use crate::tasks::Tasks;
use crate::throttle::Throttle;
use switchboard_store::clock::Clock;
use switchboard_store::origin::{BackEndOrigin, Origin, UserOrigin};
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Query, SharedStore, Submission};

/// How many questions of a connection wait at a time. Then the connection is not read.
pub(crate) const MAX_PER_CONNECTION: usize = 8;

/// The user, and how they came, as the application sees it.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) user: UserId,
    /// The claims of the user's token as JSON.
    pub(crate) claims: Option<Arc<str>>,
    /// What the user may do; `None` if a back end acts for the user.
    pub(crate) permissions: Option<Arc<Permissions>>,
    /// The user's address; `None` if a back end acts for the user.
    pub(crate) address: Option<IpAddr>,
    /// The back end's key, if one acts for the user.
    pub(crate) key: Option<AskingKey>,
}

/// The API key of a back end that acts for a user.
#[derive(Debug, Clone)]
pub(crate) struct AskingKey {
    pub(crate) number: Via,
    pub(crate) name: String,
    pub(crate) address: Option<IpAddr>,
}

/// What to submit in place of the change that was asked about.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) change: Change,
    /// Until it is dropped, a retry gets the same decision. It is dropped when the change is submitted; from then on the store
    /// knows the change.
    pub(crate) turn: Option<KeyTurn>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenDecision {
    /// The user comes in, and joins these rooms.
    Accept(Vec<ConversationId>),
    /// The application refuses the user.
    Refuse(Refusal),
    /// There was no answer, and the configuration refuses then.
    Unavailable(Refusal),
}

/// Asks the application's back end.
pub(crate) struct Hooks {
    config: HooksConfig,
    only: Vec<WildMatch>,
    client: HookClient,
    breaker: Breaker,
    places: Places,
    keys: Keys,
    metrics: HookMetrics,
    store: SharedStore,
    limits: Limits,
    clock: Clock,
    tasks: Tasks,
    failure_lines: Throttle,
}

/// Checks that the hook can be asked, without asking it.
pub(crate) fn check(config: &HooksConfig) -> anyhow::Result<()> {
    HookClient::new(config, Clock::system()).map(drop)
}

/// What is asked about, and what is not and has the same effect.
pub(crate) fn ways_round(config: &HooksConfig) -> impl Iterator<Item = (Ask, Ask)> {
    let pairs = [(Ask::Message, Ask::Edit), (Ask::Invite, Ask::Create), (Ask::Rename, Ask::Create)];
    let is_asked = |ask| config.on_failure.contains_key(&ask);
    pairs.into_iter().filter(move |(asked, unasked)| is_asked(*asked) && !is_asked(*unasked))
}

impl Hooks {
    /// Makes the hook, if one is configured.
    ///
    /// # Errors
    /// The client cannot be made, for example because the CA certificates cannot be read.
    pub(crate) fn start(
        config: &Config,
        store: &SharedStore,
        clock: &Clock,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(hooks) = &config.hooks else { return Ok(None) };
        let (limits, config, metrics) = (config.limits.clone(), hooks.clone(), metrics.hooks.clone());
        for (asked, unasked) in ways_round(&config) {
            let (asked, unasked) = (asked.as_str(), unasked.as_str());
            tracing::warn!(
                asked,
                unasked,
                "the hook is asked about one and not about the other, which has the same effect"
            );
        }
        metrics.begin_at_zero(config.on_failure.keys().copied());
        Ok(Some(Arc::new(Self {
            only: config.only.iter().map(|pattern| WildMatch::new(pattern)).collect(),
            client: HookClient::new(&config, clock.clone())?,
            breaker: Breaker::new(metrics.clone()),
            places: Places::new(metrics.clone()),
            keys: Keys::default(),
            failure_lines: Throttle::once_per(Duration::from_secs(1)),
            config,
            metrics,
            store: store.clone(),
            limits,
            clock: clock.clone(),
            tasks: tasks.clone(),
        })))
    }

    /// Whether the application is asked when a user connects.
    pub(crate) fn asks_open(&self) -> bool {
        self.config.on_failure.contains_key(&Ask::Open)
    }

    /// What the application is asked about a change; `None` if it is not asked.
    pub(crate) fn question_about(&self, user: &UserId, change: &Change) -> Option<Ask> {
        let (ask, conversation) = match change {
            Change::Send(c) => (Ask::Message, c.to.resolve(user)),
            Change::Edit(c) => (Ask::Edit, c.conversation.resolve(user)),
            Change::React(c) => (Ask::React, c.conversation.resolve(user)),
            Change::Rename(c) => (Ask::Rename, c.conversation.resolve(user)),
            Change::Invite(c) | Change::InviteWithKey(c) => (Ask::Invite, c.conversation.resolve(user)),
            Change::Create(c) => {
                // A room without a name yet is compared as `#`.
                let name = c.room.as_ref().map(ConversationId::room);
                let name = name.as_ref().map_or("#", ConversationId::as_str);
                return Some(Ask::Create).filter(|ask| self.is_asked(*ask, name));
            }
            _ => return None,
        };
        Some(ask).filter(|ask| self.is_asked(*ask, conversation.as_str()))
    }

    fn is_asked(&self, ask: Ask, conversation: &str) -> bool {
        self.config.on_failure.contains_key(&ask)
            && self.only.iter().any(|pattern| pattern.matches(conversation))
    }

    /// Asks about a change in a task of its own. If the receiver is dropped, it is asked only if it was asked already.
    pub(crate) fn begin(
        self: &Arc<Self>,
        asker: Asker,
        ask: Ask,
        change: Change,
    ) -> oneshot::Receiver<Decision> {
        let (mut reply, receiver) = oneshot::channel();
        let hooks = self.clone();
        self.tasks.spawn(async move {
            let prepared = tokio::select! {
                biased;
                () = reply.closed() => return,
                prepared = hooks.prepare(&asker, change) => prepared,
            };
            let decision = match prepared {
                Ok(Prepared { change, turn }) => {
                    let place = tokio::select! {
                        biased;
                        () = reply.closed() => return,
                        place = hooks.places.enter(&asker.user) => place,
                    };
                    let decision = hooks.ask_about(&asker, ask, change, turn).await;
                    drop(place);
                    decision
                }
                Err(decision) => *decision,
            };
            // If the connection has ended, a retry is asked about again.
            drop(reply.send(decision));
        });
        receiver
    }

    /// Waits for another question about the same key, and checks the change. Returns the decision if nothing has to be asked.
    async fn prepare(&self, asker: &Asker, change: Change) -> Result<Prepared, Box<Decision>> {
        let turn = match &change {
            Change::Send(send) => match &send.key {
                Some(key) => Some(self.keys.enter(&asker.user, key).await),
                None => None,
            },
            _ => None,
        };
        if let Some(decided) = turn.as_ref().and_then(|turn| turn.decision_about(&change)) {
            return Err(Box::new(Decision { change: decided, turn: turn.map(KeyTurn::leave) }));
        }
        let change = match self.check(asker, change.clone()).await {
            Ok(OkBody::Done {}) => return Ok(Prepared { change, turn }),
            // It repeats an earlier change, which was asked about.
            Ok(_) => Change::Repeated(Box::new(change)),
            Err(refusal) => Change::Refused(refusal),
        };
        Err(Box::new(Decision { change, turn: None }))
    }

    /// Finds out whether the change would be stored. The store answers in the order of submissions, so it knows every change
    /// that was submitted before.
    async fn check(&self, asker: &Asker, change: Change) -> Result<OkBody<Box<RawValue>>, Refusal> {
        let (reply, outcome) = oneshot::channel();
        let origin = match &asker.key {
            None => match asker.permissions.clone() {
                Some(permissions) => Origin::User(UserOrigin { reply, permissions }),
                None => Origin::Call(reply),
            },
            Some(key) => {
                Origin::BackEnd(BackEndOrigin { reply, via: key.number, address: key.address, by: None })
            }
        };
        let change = Change::Check(Box::new(change));
        let submission = Submission { actor: asker.user.clone(), change, origin };
        self.store.submit(submission).map_err(|_| Refusal::unavailable())?;
        outcome.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }

    async fn ask_about(&self, asker: &Asker, ask: Ask, change: Change, turn: Option<KeyTurn>) -> Decision {
        let question = self.question(asker, ask, &change).await;
        let read = |body: &[u8]| Action::parse(body)?.apply_to(&change, &self.limits);
        let decided = match self.exchange(ask, &asker.user, question, read).await {
            // A node of an earlier version does not know what is held.
            Ok(Change::Hold(_)) if !self.store.features().contains(&HOLD) => Change::Refused(unanswered()),
            Ok(decided) => decided,
            Err(OnFailure::Accept) => answer::approved(change.clone(), None),
            Err(OnFailure::Refuse) => Change::Refused(unanswered()),
        };
        let turn = turn.map(|turn| turn.decide(change, &decided));
        Decision { change: decided, turn }
    }

    async fn question(&self, asker: &Asker, ask: Ask, change: &Change) -> String {
        let context = match change {
            Change::Send(send) if self.config.context > 0 => self.context(asker, &send.to).await,
            _ => None,
        };
        question::about(asker, ask, change, context.as_deref(), self.clock.now())
    }

    /// The latest messages of a conversation; `None` if it does not exist yet.
    async fn context(&self, asker: &Asker, to: &Target) -> Option<Vec<Box<RawValue>>> {
        let history = History {
            conversation: to.clone(),
            before: None,
            around: None,
            limit: Some(self.config.context),
        };
        match self.store.query(&asker.user, Query::History(history)).await {
            Ok(OkBody::History { messages, .. }) => Some(
                messages.iter().filter_map(|message| serde_json::value::to_raw_value(message).ok()).collect(),
            ),
            _ => None,
        }
    }

    /// Asks whether a user may connect. A user for whom there is no place within `limits.hello_timeout` is not accepted unasked.
    /// The configuration has no say here: it decides when the application does not answer, and that user could bring this about.
    pub(crate) async fn ask_open(&self, asker: &Asker) -> OpenDecision {
        let longest = Duration::from_millis(self.limits.hello_timeout.into());
        let Ok(_place) = tokio::time::timeout(longest, self.places.enter(&asker.user)).await else {
            self.metrics.count_failure(Failure::NotAsked);
            return OpenDecision::Unavailable(unanswered());
        };
        let question = question::about_connection(asker, self.clock.now());
        match self.exchange(Ask::Open, &asker.user, question, Opened::parse).await {
            Ok(Opened::Accept { join }) => OpenDecision::Accept(join),
            Ok(Opened::Refuse(refusal)) => OpenDecision::Refuse(refusal),
            Err(OnFailure::Accept) => OpenDecision::Accept(Vec::new()),
            Err(OnFailure::Refuse) => OpenDecision::Unavailable(unanswered()),
        }
    }

    /// Asks one question about a user. `read` makes of the answer what it says.
    ///
    /// # Errors
    /// What the configuration says about questions without an answer. An answer that cannot be carried out refuses, because the
    /// application did not accept.
    async fn exchange<T: Answered>(
        &self,
        ask: Ask,
        user: &UserId,
        question: String,
        read: impl FnOnce(&[u8]) -> Result<T, Failure>,
    ) -> Result<T, OnFailure> {
        let failed = || self.config.on_failure.get(&ask).copied().unwrap_or(OnFailure::Refuse);
        let Some(attempt) = self.breaker.begin() else {
            self.metrics.count_failure(Failure::NotAsked);
            return Err(failed());
        };
        let asked = Instant::now();
        let in_flight = self.metrics.begin(ask);
        let answered = tokio::time::timeout(self.config.timeout, self.client.post(question)).await;
        let answered = answered.unwrap_or(Err(Failure::Timeout)).and_then(|body| read(&body));
        drop(in_flight);
        self.metrics.observe(asked.elapsed());
        attempt.end(user, answered.as_ref().err().copied());
        match answered {
            Ok(answer) => {
                self.metrics.count_answer(ask, answer.action());
                Ok(answer)
            }
            Err(failure) => {
                self.metrics.count_failure(failure);
                if let Some(count) = self.failure_lines.record_event() {
                    let (ask, reason, suppressed) = (ask.as_str(), failure.as_str(), count - 1);
                    tracing::warn!(ask, reason, suppressed, "the hook gave no answer");
                }
                Err(if failure.is_decision() { OnFailure::Refuse } else { failed() })
            }
        }
    }
}

/// A change that has been checked, and is to be asked about.
struct Prepared {
    change: Change,
    turn: Option<KeyTurn>,
}

/// An answer that names what the application decided.
trait Answered {
    /// The action's name, for the metrics.
    fn action(&self) -> &'static str;
}

impl Answered for Change {
    fn action(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refuse",
            Self::Hold(_) => "hold",
            Self::Approved(approved) if approved.requested.is_some() => "replace",
            _ => "accept",
        }
    }
}

impl Answered for Opened {
    fn action(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "accept",
            Self::Refuse(_) => "refuse",
        }
    }
}

/// The refusal of what was asked about without an answer. The client tries again.
fn unanswered() -> Refusal {
    let message = "the application gave no answer; retry with the same `key`";
    Refusal { message: message.into(), ..Refusal::unavailable() }
}
