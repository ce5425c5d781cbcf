//! What an endpoint of a run answers, and what it has got.

use std::collections::{HashMap, HashSet};

use tokio::sync::oneshot;

use super::is_signed;
use crate::support::{Received, Reply};

/// The faults that come one after another.
const FAULTS: [Reply; 10] = [
    Reply::Status(302),
    Reply::RetryAfter(429, 7_200),
    Reply::Hang,
    Reply::Status(500),
    Reply::Status(410),
    Reply::SlowBody,
    Reply::Status(408),
    Reply::Status(425),
    Reply::RetryAfter(503, 36_000),
    Reply::Status(502),
];

/// The time of the moved clock within which the server has the answer that says when to come back, and how many requests may be
/// on their way then.
const ANSWER_TIME: i64 = 1_800;
const MAX_IN_FLIGHT: usize = 8;

/// The faults of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// After how many requests the endpoint has its next fault.
    pub(super) every: Option<usize>,
    /// How often it hangs at most: the server waits for 15 s each time.
    pub(super) max_hangs: usize,
    /// Of so many messages, it never takes one, and another one only the third time.
    pub(super) refuses_one_in: Option<usize>,
}

/// What an endpoint has got.
#[derive(Default)]
pub(super) struct Book {
    faults: Faults,
    secret: String,
    pub(super) requests: usize,
    count_of_faults: usize,
    hangs: usize,
    /// The body of the next answer has no end.
    is_endless_next: bool,
    /// Reports the next request, which gets no answer.
    hold: Option<oneshot::Sender<()>>,
    /// The ids by conversation and number.
    ids: HashMap<(String, u64), String>,
    /// How often each entry was taken.
    pub(super) taken: HashMap<String, usize>,
    /// The entries that are never taken.
    pub(super) refused: HashSet<String>,
    /// How often an entry was refused that is taken in the end.
    refusals: HashMap<String, usize>,
    /// The last message of each conversation that was taken.
    last: HashMap<String, u64>,
    /// When `retry-after` was sent, the time before which nothing may come, and how many requests have come before it.
    closed: Option<(i64, i64, usize)>,
    /// What was against the contract.
    pub(super) wrong: Vec<String>,
}

impl Book {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, ..Self::default() }
    }

    /// The secret that signs the requests.
    pub(super) fn set_secret(&mut self, secret: String) {
        self.secret = secret;
    }

    /// Leaves the next request without an answer, and reports it.
    pub(super) fn hold_next(&mut self) -> oneshot::Receiver<()> {
        let (hold, held) = oneshot::channel();
        self.hold = Some(hold);
        held
    }

    /// A server was killed: it may not know what the endpoint answered last.
    pub(super) fn forget_retry_after(&mut self) {
        self.closed = None;
    }

    /// How many entries came again after they had been taken.
    pub(super) fn duplicates(&self) -> usize {
        self.taken.values().map(|times| times - 1).sum()
    }

    /// Records a request, and answers.
    pub(super) fn answer(&mut self, received: &Received) -> Reply {
        self.requests += 1;
        let body = received.json();
        let event = &body["data"]["event"];
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (conversation, seq) = (text("conversation"), event["seq"].as_u64().unwrap_or_default());
        let id = self.ids.entry((conversation.clone(), seq)).or_insert_with(|| received.id.clone());
        if *id != received.id {
            let wrong = format!("{conversation} {seq} came as {id} and as {}", received.id);
            self.wrong.push(wrong);
        }
        if !is_signed(received, &self.secret) {
            self.wrong.push(format!("{} is not signed", received.id));
        }
        let time: i64 = received.timestamp.parse().expect("seconds");
        self.check_retry_after(time);
        if let Some(hold) = self.hold.take() {
            // The test may have ended.
            let _ = hold.send(());
            return Reply::Hang;
        }
        let reply = self.reply(&received.id, text("text").parse().expect("a number"));
        match reply {
            Reply::Status(200) | Reply::SlowBody => self.take(&received.id, conversation, seq),
            Reply::RetryAfter(_, seconds) => {
                self.closed = Some((time, time + i64::from(seconds), 0));
            }
            // It is resumed, and then tried at once.
            Reply::Status(410) => self.closed = None,
            _ => {}
        }
        reply
    }

    fn check_retry_after(&mut self, time: i64) {
        match &mut self.closed {
            Some((sent, until, early)) if time < *until => {
                *early += usize::from(time > *sent + ANSWER_TIME);
                if *early > MAX_IN_FLIGHT {
                    let wrong = format!("a request came {} s before the end of `retry-after`", *until - time);
                    self.wrong.push(wrong);
                }
            }
            closed => *closed = None,
        }
    }

    fn reply(&mut self, id: &str, number: usize) -> Reply {
        if std::mem::take(&mut self.is_endless_next) {
            return Reply::EndlessBody;
        }
        let place = self.faults.refuses_one_in.map(|many| number % many);
        let is_never_taken = place == Some(1);
        if let Some(every) = self.faults.every
            && self.requests.is_multiple_of(every)
        {
            self.count_of_faults += 1;
            let fault = FAULTS[(self.count_of_faults - 1) % FAULTS.len()];
            let is_hang = matches!(fault, Reply::Hang);
            self.hangs += usize::from(is_hang);
            // A slow body says that the entry was taken.
            let contradicts = is_never_taken && matches!(fault, Reply::SlowBody);
            if !contradicts && (!is_hang || self.hangs <= self.faults.max_hangs) {
                // Both last until the time-out, and so they last together.
                self.is_endless_next = is_hang;
                return fault;
            }
        }
        match place {
            Some(1) => {
                self.refused.insert(id.to_owned());
                return Reply::Status(400);
            }
            Some(2) => {
                let refusals = self.refusals.entry(id.to_owned()).or_default();
                *refusals += 1;
                if *refusals < 3 {
                    return Reply::Status(404);
                }
            }
            _ => {}
        }
        Reply::Status(200)
    }

    fn take(&mut self, id: &str, conversation: String, seq: u64) {
        let times = self.taken.entry(id.to_owned()).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        let last = self.last.entry(conversation).or_default();
        if seq <= *last {
            self.wrong.push(format!("{id} came after a later one: {seq} after {last}"));
        }
        *last = seq;
    }
}
