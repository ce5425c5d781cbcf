//! Held messages under the faults of a run: users send messages that the filter holds, and a moderator releases and rejects them.
//! At the end, the queue, the log and the answer to each key must say the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use switchboard_client::Client;
use switchboard_protocol::{ConversationId, Create, Event, RoomId, UserId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::record::Law;
use crate::spawn;
use crate::verify::read_whole_log;
use crate::world::{Phase, Room, World, hello, moderator_token, token};

/// The word on the servers' list, which makes the filter hold a message.
pub(crate) const WORD: &str = "holdme";

/// The room's admin, who sends nothing, and those whose messages are held.
const USERS: [&str; 4] = ["h0", "h1", "h2", "h3"];

const ROOM: &str = "held";

const MODERATOR: &str = "moderator";

/// The mean time between two messages of an author, and between two looks at the queue.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a request may take. Faults make requests hang.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// After the faults, how long a request is repeated until it is answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// The most entries of the queue in a page.
const PAGE_SIZE: u32 = 100;

/// What clients know of a message.
#[derive(Debug, Default)]
struct Known {
    /// Whether a server said that it holds the message.
    is_held: bool,
    /// The `seq` that a server gave it.
    seq: Option<u64>,
    /// Whether a server said that it was rejected.
    is_rejected: bool,
    /// The decision that a server acknowledged.
    decision: Option<&'static str>,
}

/// What a server answers to a message that was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Held,
    Stored(u64),
    Rejected,
}

/// The messages, by their key.
type Messages = BTreeMap<String, Known>;

/// The users and the moderator, while they run.
pub(crate) struct HeldMessages {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    world: Arc<World>,
    room: Room,
    http: reqwest::Client,
    messages: Mutex<Messages>,
}

impl HeldMessages {
    /// Creates the room, and starts the users and the moderator.
    pub(crate) async fn start(world: &Arc<World>, rng: &mut fastrand::Rng) -> anyhow::Result<Self> {
        let name = RoomId::parse(ROOM)?;
        let members = USERS.iter().map(|user| UserId::parse(user)).collect::<Result<Vec<_>, _>>()?;
        let (mut admin, _) = Client::connect(world.direct_url(0), hello(&members[0])).await?;
        let create =
            Create { room: Some(name.clone()), title: None, public: false, members: members[1..].to_vec() };
        admin.call(create).await.context("cannot make the room of held messages")?;
        admin.close().await;
        let room = Room { id: ConversationId::room(&name), members, is_public: false };
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let shared = Arc::new(Shared { world: world.clone(), room, http, messages: Mutex::default() });
        let mut tasks = vec![spawn(shared.clone().moderate(rng.fork()))];
        for author in &USERS[1..] {
            tasks.push(spawn(shared.clone().send(author, rng.fork())));
        }
        Ok(Self { shared, tasks })
    }

    /// Waits for the end of all tasks, and verifies what became of each message. Returns a line for the report.
    pub(crate) async fn finish_and_verify(self) -> anyhow::Result<String> {
        for task in self.tasks {
            task.await?;
        }
        self.shared.verify().await
    }
}

impl Shared {
    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breach(&self, law: Law, what: String) {
        self.world.record.breach(law, what, &[], None);
    }

    fn is_sending(&self) -> bool {
        self.world.phase() < Phase::Draining
    }

    /// Sends messages until the faults are over. Some are sent again after their answer.
    async fn send(self: Arc<Self>, author: &'static str, mut rng: fastrand::Rng) {
        let mut sent = Vec::new();
        while self.is_sending() {
            // waits for: the next message of this author
            sleep(PAUSE.mul_f64(2.0 * rng.f64())).await;
            let key = match rng.choice(&sent) {
                Some(key) if rng.f64() < 0.3 => String::clone(key),
                _ => format!("{author}-{}", sent.len()),
            };
            self.messages().entry(key.clone()).or_default();
            let Some(answer) = self.answer_to(author, &key, &mut rng).await else {
                self.breach(Law::Stuck, format!("the held message {key} gets no answer"));
                return;
            };
            self.note(&key, answer);
            if !sent.contains(&key) {
                sent.push(key);
            }
        }
    }

    /// Sends a message until a server answers.
    async fn answer_to(&self, author: &str, key: &str, rng: &mut fastrand::Rng) -> Option<Answer> {
        let user = UserId::parse(author).ok()?;
        let message = json!({"to": self.room.id, "key": key, "text": format!("{WORD} {key}")});
        let (status, body) = self.post_until_answered("send", &token(&user), &message, rng).await?;
        if body["held"] == true {
            return Some(Answer::Held);
        }
        match (body["seq"].as_u64(), body["code"].as_str()) {
            (Some(seq), _) => Some(Answer::Stored(seq)),
            (None, Some("refused")) => Some(Answer::Rejected),
            _ => {
                self.breach(Law::WrongAnswer, format!("{key} was answered with {status} {body}"));
                None
            }
        }
    }

    /// Notes an answer, which must follow from what was answered before.
    fn note(&self, key: &str, answer: Answer) {
        let mut messages = self.messages();
        let known = messages.entry(key.to_owned()).or_default();
        let broken = match answer {
            Answer::Held => {
                known.is_held = true;
                (known.seq.is_some() || known.is_rejected).then_some(Law::WentBack)
            }
            Answer::Rejected => {
                known.is_rejected = true;
                known.seq.is_some().then_some(Law::Lost)
            }
            Answer::Stored(seq) => {
                let before = known.seq.replace(seq);
                (before.is_some_and(|before| before != seq) || known.is_rejected).then_some(Law::SeqChanged)
            }
        };
        let what = format!("{key} is now {answer:?}, and was {known:?}");
        drop(messages);
        if let Some(law) = broken {
            self.breach(law, what);
        }
    }

    /// Decides the oldest entries of the queue until the faults are over, most of them.
    async fn moderate(self: Arc<Self>, mut rng: fastrand::Rng) {
        while self.is_sending() {
            // waits for: the next look at the queue
            sleep(PAUSE).await;
            let Some(page) = self.page_of_queue(&json!({"state": "open", "limit": 20}), &mut rng).await
            else {
                self.breach(Law::Stuck, "the queue of reports gets no answer".to_owned());
                return;
            };
            for entry in page["reports"].as_array().into_iter().flatten() {
                if rng.f64() < 0.2 {
                    continue;
                }
                let action = if rng.f64() < 0.6 { "release" } else { "reject" };
                if self.decide(entry, action, &mut rng).await.is_none() {
                    self.breach(Law::Stuck, format!("{entry} cannot be decided"));
                    return;
                }
            }
        }
    }

    /// Decides an entry, and repeats that until a server has answered. An earlier attempt may have been stored.
    async fn decide(&self, entry: &Value, action: &'static str, rng: &mut fastrand::Rng) -> Option<()> {
        let decision = json!({"report": entry["report"], "action": action});
        let token = moderator_token(MODERATOR);
        let (status, body) = self.post_until_answered("resolve", &token, &decision, rng).await?;
        if status != StatusCode::OK && body["code"] != "already_exists" {
            self.breach(Law::WrongAnswer, format!("{decision} was answered with {status} {body}"));
        } else if let Some(key) = key_in(&entry["snapshot"]["text"]) {
            self.messages().entry(key.to_owned()).or_default().decision = Some(action);
        }
        Some(())
    }

    async fn page_of_queue(&self, query: &Value, rng: &mut fastrand::Rng) -> Option<Value> {
        let (status, page) =
            self.post_until_answered("reports", &moderator_token(MODERATOR), query, rng).await?;
        (status == StatusCode::OK).then_some(page)
    }

    /// Posts a call to nodes chosen at random, until one answers that need not be asked again. `None` if none does for long after
    /// the faults.
    async fn post_until_answered(
        &self,
        call: &str,
        token: &str,
        body: &Value,
        rng: &mut fastrand::Rng,
    ) -> Option<(StatusCode, Value)> {
        let mut since = Instant::now();
        loop {
            let node = rng.usize(..self.world.proxied_urls.len());
            if let Some((status, answer)) = self.post(node, call, token, body).await {
                // A node that has just started does not know yet what all nodes know: the filter refuses, with a field.
                let is_for_now = match answer["code"].as_str() {
                    Some("refused") => answer.get("field").is_some(),
                    code => code == Some("unknown_type"),
                };
                if !is_for_now && answer["retryable"] != true {
                    return Some((status, answer));
                }
            }
            if self.is_sending() {
                since = Instant::now();
            } else if since.elapsed() > ANSWER_TIMEOUT {
                return None;
            }
            // waits for: the delay between two attempts, as in any client
            sleep(PAUSE).await;
        }
    }

    /// Posts a call to a node. `None` without an answer.
    async fn post(&self, node: usize, call: &str, token: &str, body: &Value) -> Option<(StatusCode, Value)> {
        let url = self.world.proxied_urls[node].replacen("ws://", "http://", 1);
        let url = format!("{}/{call}", url.strip_suffix("/ws")?);
        let response = self.http.post(url).bearer_auth(token).json(body).send().await.ok()?;
        Some((response.status(), response.json().await.ok()?))
    }

    /// Compares the queue, the log and the answers to the keys.
    async fn verify(&self) -> anyhow::Result<String> {
        let mut rng = fastrand::Rng::with_seed(0);
        let queue = self.read_queue(&mut rng).await?;
        let (mut client, _) = Client::connect(self.world.direct_url(0), hello(&self.room.members[0])).await?;
        let log =
            read_whole_log(&mut client, &self.room).await?.context("the room of held messages is gone")?;
        client.close().await;
        let stored = self.stored_messages(&log);
        let known: Messages = std::mem::take(&mut *self.messages());
        let (mut waiting, mut released, mut rejected) = (0, 0, 0);
        for (key, known) in &known {
            let author = key.split('-').next().unwrap_or_default();
            let seq = stored.get(key).copied();
            let answer = match queue.get(key).map(String::as_str) {
                Some("") => Answer::Held,
                Some("release") => Answer::Stored(seq.unwrap_or_default()),
                Some(_) => Answer::Rejected,
                // No server has got it, so nothing may say that it has.
                None if !known.is_held && seq.is_none() && known.decision.is_none() => continue,
                None => {
                    self.breach(
                        Law::Lost,
                        format!("{key} is not in the queue, and was {known:?}; in the log: {seq:?}"),
                    );
                    continue;
                }
            };
            match answer {
                Answer::Held => waiting += 1,
                Answer::Stored(_) => released += 1,
                Answer::Rejected => rejected += 1,
            }
            let decided = queue.get(key).map_or("", String::as_str);
            if seq.is_some() != (decided == "release") || known.decision.is_some_and(|known| known != decided)
            {
                let what =
                    format!("{key} is decided as {decided:?}, in the log as {seq:?}, and was {known:?}");
                self.breach(if seq.is_some() { Law::WrongAnswer } else { Law::Lost }, what);
                continue;
            }
            let again = self.answer_to(author, key, &mut rng).await;
            if again != Some(answer) {
                let what = format!("{key} is {answer:?}, and is answered with {again:?}");
                self.breach(Law::WrongAnswer, what);
            }
        }
        ensure!(waiting + released + rejected > 0, "no message was held, so the run proves nothing");
        Ok(format!(
            "held messages: {} tried, {released} released, {rejected} rejected, {waiting} wait",
            known.len()
        ))
    }

    /// The messages of the log, each with its `seq`, by key.
    fn stored_messages(&self, log: &[Event]) -> BTreeMap<String, u64> {
        let mut stored = BTreeMap::new();
        for event in log {
            let Some(key) = event.key.as_ref().map(|key| key.as_str().to_owned()) else { continue };
            if let Some(before) = stored.insert(key.clone(), event.seq.0) {
                self.breach(Law::Doubled, format!("{key} is in the log as {before} and {}", event.seq.0));
            }
        }
        stored
    }

    /// What the queue has of each message: how it was decided; empty for one that waits.
    async fn read_queue(&self, rng: &mut fastrand::Rng) -> anyhow::Result<BTreeMap<String, String>> {
        let (mut queue, mut after) = (BTreeMap::new(), json!(0));
        loop {
            let query = json!({"after": after, "limit": PAGE_SIZE});
            let Some(page) = self.page_of_queue(&query, rng).await else { bail!("the queue cannot be read") };
            for entry in page["reports"].as_array().into_iter().flatten() {
                let Some(key) = key_in(&entry["snapshot"]["text"]) else { bail!("{entry} has no key") };
                let decided = entry["action"].as_str().unwrap_or_default().to_owned();
                if queue.insert(key.to_owned(), decided).is_some() {
                    self.breach(Law::Doubled, format!("{key} is in the queue twice"));
                }
            }
            if page["more"] != true {
                return Ok(queue);
            }
            after = page["next"].clone();
        }
    }
}

/// The key of a message, which is in its text.
fn key_in(text: &Value) -> Option<&str> {
    text.as_str()?.strip_prefix(WORD)?.strip_prefix(' ')
}
