//! `ok` means stored: the server is killed in the middle of everything, again and again.

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

const KILLS: usize = 20;
const SENDERS: usize = 64;

/// Everybody in one room would measure how fast 63 copies are made.
const ROOMS: usize = 8;

/// Messages that a sender does not wait for one by one.
const BURST: usize = 4;

/// What a sender has said, and what it knows of that.
struct Said {
    key: String,
    /// From the `ok`.
    acknowledged: Option<u64>,
    /// Found in the log, though without an `ok`.
    found: Option<u64>,
}

/// One of those who write all the time, whatever happens to the server.
struct Sender {
    name: String,
    room: String,
    said: Vec<Said>,
}

/// How many messages have been acknowledged since the server started.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicUsize,
    news: Notify,
}

impl Progress {
    fn one_more(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.news.notify_one();
    }

    async fn reaches(&self, count: usize) {
        while self.acknowledged.load(Ordering::Relaxed) < count {
            self.news.notified().await;
        }
    }
}

impl Sender {
    fn new(number: usize) -> Self {
        Self { name: format!("sender{number}"), room: format!("#room{}", number % ROOMS), said: Vec::new() }
    }

    /// Says again what got no answer, then something new, until the server is gone.
    async fn writes_until_the_end(mut self, mut person: Person, progress: Arc<Progress>) -> Self {
        let mut next = self.unanswered();
        while let Ok(()) = self.says(&mut person, &next, &progress).await {
            let first = self.said.len();
            next = (first..first + BURST).collect();
            let new = next.iter().map(|number| format!("{}-{number}", self.name));
            self.said.extend(new.map(|key| Said { key, acknowledged: None, found: None }));
        }
        self
    }

    /// Says again what got no answer; the server lives.
    async fn settles(mut self, mut person: Person) -> Self {
        let open = self.unanswered();
        self.says(&mut person, &open, &Progress::default()).await.expect("the server lives");
        self
    }

    fn unanswered(&self) -> Vec<usize> {
        (0..self.said.len()).filter(|number| self.said[*number].acknowledged.is_none()).collect()
    }

    /// Says these in one go and waits for their answers.
    async fn says(
        &mut self,
        person: &mut Person,
        numbers: &[usize],
        progress: &Progress,
    ) -> Result<(), ClientError> {
        let send = |number: &usize| {
            let key = &self.said[*number].key;
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
            let Some(CommandId::Number(id)) = ok.id else { panic!("whose answer? {ok:?}") };
            let nth = usize::try_from(id - first).expect("an answer to one of these");
            self.said[numbers[nth]].is_acknowledged(&ok.body);
            progress.one_more();
            open -= 1;
        }
        Ok(())
    }
}

impl Said {
    fn is_acknowledged(&mut self, body: &OkBody) {
        let OkBody::Stored { seq, duplicate, .. } = body else { panic!("stored, not {body:?}") };
        assert_eq!(*duplicate, self.found.is_some(), "{}: {body:?}, found {:?}", self.key, self.found);
        if let Some(found) = self.found {
            assert_eq!(seq.0, found, "{}", self.key);
        }
        self.acknowledged = Some(seq.0);
    }
}

/// Starts a server on the data, lets everybody write, and kills it at some moment.
async fn live_and_die(data: &Path, senders: Vec<Sender>) -> Vec<Sender> {
    let server = Process::start(data).await;
    let progress = Arc::new(Progress::default());
    let mut ready = Vec::new();
    for sender in senders {
        let person = server.connects(&sender.name).await;
        ready.push(sender.writes_until_the_end(person, progress.clone()));
    }
    let writing: JoinSet<_> = ready.into_iter().collect();
    progress.reaches(random(1_000)).await;
    // waits for: a moment that has nothing to do with what the server does
    tokio::time::sleep(Duration::from_micros(random(10_000) as u64)).await;
    server.dies().await;
    writing.join_all().await
}

/// A number below `end`; which one does not matter to a server that keeps its word.
fn random(end: usize) -> usize {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("randomness");
    u32::from_ne_bytes(bytes) as usize % end
}

/// The log of every room, by room.
async fn read_logs(auditor: &mut Person) -> HashMap<String, Vec<Event>> {
    let mut logs = HashMap::new();
    for room in (0..ROOMS).map(|number| format!("#room{number}")) {
        let log = auditor.log(&room).await;
        assert!((1..).zip(&log).all(|(seq, event)| event.seq.0 == seq), "{room} has a gap");
        logs.insert(room, log);
    }
    logs
}

/// Compares what the senders know with what the log has, and notes what was stored without an `ok`.
fn audit(senders: &mut [Sender], logs: &HashMap<String, Vec<Event>>) {
    for sender in senders {
        let own = logs[&sender.room].iter().filter(|event| event.from.as_str() == sender.name);
        let mut stored: HashMap<&str, u64> = HashMap::new();
        for event in own {
            let key = event.key.as_ref().expect("a message").as_str();
            assert_eq!(text_of(event), Some(key), "{event:?}");
            assert_eq!(stored.insert(key, event.seq.0), None, "{key} is stored twice");
        }
        for said in &mut sender.said {
            said.found = stored.remove(said.key.as_str());
            if said.acknowledged.is_some() {
                assert_eq!(said.found, said.acknowledged, "{} was acknowledged", said.key);
            }
        }
        assert!(stored.is_empty(), "nobody said {stored:?}");
    }
}

#[tokio::test]
async fn hostile_28_what_was_acknowledged_outlives_a_kill_in_the_middle_of_64_senders() {
    let data = TempDir::new().expect("a directory");
    let mut senders: Vec<_> = (0..SENDERS).map(Sender::new).collect();
    let server = Process::start(data.path()).await;
    let mut auditor = server.connects("auditor").await;
    for room in 0..ROOMS {
        let members: Vec<_> =
            (0..SENDERS).filter(|n| n % ROOMS == room).map(|n| senders[n].name.as_str()).collect();
        auditor.makes_room(&format!("room{room}"), &members).await;
    }
    server.dies().await;

    let mut lost_answers = 0;
    for _ in 0..KILLS {
        senders = live_and_die(data.path(), senders).await;
        let server = Process::start(data.path()).await;
        audit(&mut senders, &read_logs(&mut server.connects("auditor").await).await);
        let unanswered = senders.iter().flat_map(|s| &s.said).filter(|said| said.acknowledged.is_none());
        lost_answers += unanswered.filter(|said| said.found.is_some()).count();
        server.dies().await;
    }

    let server = Process::start(data.path()).await;
    let mut settling = JoinSet::new();
    for sender in senders {
        let person = server.connects(&sender.name).await;
        settling.spawn(sender.settles(person));
    }
    let mut senders = settling.join_all().await;
    audit(&mut senders, &read_logs(&mut server.connects("auditor").await).await);
    let said: Vec<_> = senders.iter().flat_map(|sender| &sender.said).collect();
    assert!(said.iter().all(|said| said.acknowledged.is_some()), "every retry was answered");
    println!(
        "{KILLS} kills, {} messages stored once each, {lost_answers} of them before a kill took their `ok`",
        said.len()
    );
}
