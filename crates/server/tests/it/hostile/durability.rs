//! `ok` means stored: the server is killed repeatedly during writes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use switchboard_client::ClientError;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{CommandId, Event};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::{Person, Process, command, text_of};

const SERVER_KILLS: usize = 20;
const SENDERS: usize = 64;

/// Several rooms, because in a single room the server would spend most of its time on delivering each message to 63 users.
const ROOMS: usize = 8;

/// The number of messages that a sender sends before it waits for answers.
const SENDS_PER_BURST: usize = 4;

/// A message of a sender, and what the sender knows about it.
struct SentMessage {
    key: String,
    /// The seq in the `ok` for the message; `None` if no `ok` arrived.
    acknowledged_seq: Option<u64>,
    /// The seq that the message has in the log; `None` if it was not found there.
    logged_seq: Option<u64>,
}

/// A user who keeps sending messages, also after the server was restarted.
struct Sender {
    name: String,
    room: String,
    sent: Vec<SentMessage>,
}

/// Counts the messages that were acknowledged since the server started.
#[derive(Default)]
struct AcknowledgedCount {
    acknowledged: AtomicUsize,
    changed: Notify,
}

impl AcknowledgedCount {
    fn count_acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn wait_until_acknowledged(&self, count: usize) {
        while self.acknowledged.load(Ordering::Relaxed) < count {
            self.changed.notified().await;
        }
    }
}

impl Sender {
    fn new(number: usize) -> Self {
        Self { name: format!("sender{number}"), room: format!("#room{}", number % ROOMS), sent: Vec::new() }
    }

    /// Sends the unanswered messages again, and then new ones, until the connection ends.
    async fn write_until_closed(
        mut self,
        mut person: Person,
        acknowledged_count: Arc<AcknowledgedCount>,
    ) -> Self {
        let mut next = self.unanswered_messages();
        while let Ok(()) = self.send_message(&mut person, &next, &acknowledged_count).await {
            let first = self.sent.len();
            next = (first..first + SENDS_PER_BURST).collect();
            let new = next.iter().map(|number| format!("{}-{number}", self.name));
            self.sent.extend(new.map(|key| SentMessage { key, acknowledged_seq: None, logged_seq: None }));
        }
        self
    }

    /// Sends the unanswered messages again, to a server that is not killed.
    async fn resend_unanswered(mut self, mut person: Person) -> Self {
        let open = self.unanswered_messages();
        self.send_message(&mut person, &open, &AcknowledgedCount::default())
            .await
            .expect("the server is not killed");
        self
    }

    fn unanswered_messages(&self) -> Vec<usize> {
        (0..self.sent.len()).filter(|number| self.sent[*number].acknowledged_seq.is_none()).collect()
    }

    /// Sends these messages without waiting for each answer, and then waits for all answers.
    async fn send_message(
        &mut self,
        person: &mut Person,
        numbers: &[usize],
        acknowledged_count: &AcknowledgedCount,
    ) -> Result<(), ClientError> {
        let send = |number: &usize| {
            let key = &self.sent[*number].key;
            command("send", &json!({"to": self.room, "key": key, "text": key}))
        };
        let sends: Vec<_> = numbers.iter().map(send).collect();
        let first = person.client.submit_all(sends).await?.start;
        let mut open = numbers.len();
        while open > 0 {
            let frame = match person.client.next().await {
                Some(frame) => frame?,
                None => return Err(ClientError::Closed { code: None, reason: "killed".to_owned() }),
            };
            let ServerFrame::Reply(Reply::Ok(ok)) = frame else { continue };
            let Some(CommandId::Number(id)) = ok.id else { panic!("an answer without a number: {ok:?}") };
            let nth = usize::try_from(id - first).expect("an answer to one of these");
            self.sent[numbers[nth]].record_acknowledgement(&ok.body);
            acknowledged_count.count_acknowledged();
            open -= 1;
        }
        Ok(())
    }
}

impl SentMessage {
    fn record_acknowledgement(&mut self, body: &OkBody) {
        let OkBody::Stored { seq, duplicate, .. } = body else { panic!("stored, not {body:?}") };
        assert_eq!(
            *duplicate,
            self.logged_seq.is_some(),
            "{}: {body:?}, found {:?}",
            self.key,
            self.logged_seq
        );
        if let Some(found) = self.logged_seq {
            assert_eq!(seq.0, found, "{}", self.key);
        }
        self.acknowledged_seq = Some(seq.0);
    }
}

/// Starts a server, lets all senders write, and kills it at a random moment.
async fn send_and_kill_server(data: &Path, senders: Vec<Sender>) -> Vec<Sender> {
    let server = Process::start(data).await;
    let acknowledged_count = Arc::new(AcknowledgedCount::default());
    let mut ready = Vec::new();
    for sender in senders {
        let person = server.connects(&sender.name).await;
        ready.push(sender.write_until_closed(person, acknowledged_count.clone()));
    }
    let writing: JoinSet<_> = ready.into_iter().collect();
    acknowledged_count.wait_until_acknowledged(random_below(1_000)).await;
    // waits for: a random moment, independent of the server's work
    tokio::time::sleep(Duration::from_micros(random_below(10_000) as u64)).await;
    server.kill().await;
    writing.join_all().await
}

/// A random number below `end`.
fn random_below(end: usize) -> usize {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("randomness");
    u32::from_ne_bytes(bytes) as usize % end
}

/// Reads the log of every room.
async fn read_logs(auditor: &mut Person) -> HashMap<String, Vec<Event>> {
    let mut logs = HashMap::new();
    for room in (0..ROOMS).map(|number| format!("#room{number}")) {
        let log = auditor.log(&room).await;
        assert!((1..).zip(&log).all(|(seq, event)| event.seq.0 == seq), "{room} has a gap");
        logs.insert(room, log);
    }
    logs
}

/// Compares the senders' messages with the logs, and records the seq of messages that were stored without an `ok`.
fn compare_with_logs(senders: &mut [Sender], logs: &HashMap<String, Vec<Event>>) {
    for sender in senders {
        let own = logs[&sender.room].iter().filter(|event| event.from.as_str() == sender.name);
        let mut stored: HashMap<&str, u64> = HashMap::new();
        for event in own {
            let key = event.key.as_ref().expect("a message").as_str();
            assert_eq!(text_of(event), Some(key), "{event:?}");
            assert_eq!(stored.insert(key, event.seq.0), None, "{key} is stored twice");
        }
        for said in &mut sender.sent {
            said.logged_seq = stored.remove(said.key.as_str());
            if said.acknowledged_seq.is_some() {
                assert_eq!(said.logged_seq, said.acknowledged_seq, "{} was acknowledged", said.key);
            }
        }
        assert!(stored.is_empty(), "no sender sent {stored:?}");
    }
}

#[tokio::test]
async fn hostile_28_acknowledged_messages_of_64_senders_survive_a_kill() {
    let data = TempDir::new().expect("a directory");
    let mut senders: Vec<_> = (0..SENDERS).map(Sender::new).collect();
    let server = Process::start(data.path()).await;
    let mut auditor = server.connects("auditor").await;
    for room in 0..ROOMS {
        let members: Vec<_> =
            (0..SENDERS).filter(|n| n % ROOMS == room).map(|n| senders[n].name.as_str()).collect();
        auditor.makes_room(&format!("room{room}"), &members).await;
    }
    server.kill().await;

    let mut lost_answers = 0;
    for _ in 0..SERVER_KILLS {
        senders = send_and_kill_server(data.path(), senders).await;
        let server = Process::start(data.path()).await;
        compare_with_logs(&mut senders, &read_logs(&mut server.connects("auditor").await).await);
        let unanswered = senders.iter().flat_map(|s| &s.sent).filter(|said| said.acknowledged_seq.is_none());
        lost_answers += unanswered.filter(|said| said.logged_seq.is_some()).count();
        server.kill().await;
    }

    let server = Process::start(data.path()).await;
    let mut settling = JoinSet::new();
    for sender in senders {
        let person = server.connects(&sender.name).await;
        settling.spawn(sender.resend_unanswered(person));
    }
    let mut senders = settling.join_all().await;
    compare_with_logs(&mut senders, &read_logs(&mut server.connects("auditor").await).await);
    let said: Vec<_> = senders.iter().flat_map(|sender| &sender.sent).collect();
    assert!(said.iter().all(|said| said.acknowledged_seq.is_some()), "every retry was answered");
    println!(
        "{SERVER_KILLS} kills, {} messages stored once each, {lost_answers} of them before a kill took their `ok`",
        said.len()
    );
}
