//! Coming back and falling behind, against what a log is: whatever live events, pages of the log and full queues come in
//! between each other, a connection gets every event of others once, in order.

use proptest::prelude::*;

use super::*;

/// Bytes that may wait: some ten events.
const LIMIT: usize = 100;

/// Most events of a page.
const PAGE: usize = 4;

const CONVERSATIONS: usize = 3;

fn limits(lags: u32) -> Limits {
    Limits { queue: 100, lags, ..Limits::default() }
}

/// What happens to a connection.
#[derive(Debug, Clone)]
enum Happens {
    /// Events of a conversation are published; those of the connection's own are marked.
    Published { conversation: usize, own: Vec<bool> },
    /// A signal, which may be dropped, or a reply, which may not.
    Told { reply: bool },
    /// It is asked whether it lives.
    Pinged,
    /// The system takes so many frames.
    Written(usize),
    /// Everything is written, and a page of the log is asked for, if one is needed and none is on its way.
    Asked,
    /// The page has come.
    Answered,
    /// The store did not answer: the page is to be asked for again.
    Failed,
}

fn happens() -> impl Strategy<Value = Happens> {
    let own = proptest::collection::vec(proptest::bool::weighted(0.2), 1..8);
    prop_oneof![
        4 => (0..CONVERSATIONS, own).prop_map(|(conversation, own)| Happens::Published { conversation, own }),
        1 => any::<bool>().prop_map(|reply| Happens::Told { reply }),
        1 => Just(Happens::Pinged),
        3 => (0_usize..12).prop_map(Happens::Written),
        3 => Just(Happens::Asked),
        3 => Just(Happens::Answered),
        1 => Just(Happens::Failed),
    ]
}

/// A log: which of its events are the connection's own, and how far the connection was when it came.
#[derive(Debug, Clone, Default)]
struct Log {
    own: Vec<bool>,
    cursor: u64,
}

struct Connection {
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    logs: Vec<Log>,
    writing: VecDeque<Queued>,
    /// What the client has got of each conversation.
    got: Vec<Vec<u64>>,
    replies: usize,
    /// The page on its way.
    asked: Option<Lag>,
}

/// An event's frame. Its size differs, so that some fit where others do not.
fn frame(conversation: usize, seq: u64) -> Bytes {
    format!("{conversation} {seq}{}", " ".repeat(usize::try_from(seq % 5).unwrap_or(0) * 4)).into()
}

impl Connection {
    /// Comes back with cursors in logs that have events already.
    fn new(logs: Vec<Log>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let outbox = Arc::new(Outbox::new(&limits(3), metrics.clone()));
        for (conversation, log) in (0..).zip(&logs) {
            outbox.resume_from(ConversationKey(conversation), Seq(log.cursor), Seq(log.own.len() as u64));
        }
        let got = vec![Vec::new(); logs.len()];
        Self { outbox, metrics, logs, writing: VecDeque::new(), got, replies: 0, asked: None }
    }

    fn meets(&mut self, what: Happens) {
        match what {
            Happens::Published { conversation, own } => self.publishes(conversation, &own),
            Happens::Told { reply: true } => {
                self.replies += 1;
                self.outbox.push_reply(Bytes::from_static(b"reply"));
            }
            Happens::Told { reply: false } => {
                let before = self.outbox.state().bytes;
                self.outbox.push_signal(&Bytes::from_static(b"signal"));
                assert!(self.outbox.state().bytes <= LIMIT.max(before));
            }
            Happens::Pinged => self.outbox.set_pong(Bytes::from_static(b"pong")),
            Happens::Written(frames) => drop(self.writes(frames)),
            Happens::Asked => self.asks(),
            Happens::Answered => self.is_answered(),
            Happens::Failed => self.asked = None,
        }
    }

    fn publishes(&mut self, conversation: usize, own: &[bool]) {
        let log = &mut self.logs[conversation];
        let events: Vec<_> = own
            .iter()
            .zip(log.own.len() as u64 + 1..)
            .map(|(own, seq)| Gathered {
                seq: Seq(seq),
                frame: frame(conversation, seq),
                own: own.then(|| self.outbox.clone()),
                stored: Instant::now(),
            })
            .collect();
        log.own.extend_from_slice(own);
        let before = self.outbox.state().bytes;
        self.outbox.push_events(ConversationKey(i64::try_from(conversation).expect("few")), &events);
        assert!(self.outbox.state().bytes <= LIMIT.max(before), "events over the limit are queued");
    }

    /// Writes so many frames; whether nothing is left.
    fn writes(&mut self, frames: usize) -> bool {
        for _ in 0..frames {
            if self.writing.is_empty() {
                self.outbox.take(0, &mut self.writing);
            }
            let Some(queued) = self.writing.pop_front() else { return true };
            self.outbox.written(queued.frame.len());
            self.client_gets(&queued.frame);
        }
        self.writing.is_empty() && self.outbox.state().bytes == 0
    }

    fn client_gets(&mut self, frame: &[u8]) {
        let text = std::str::from_utf8(frame).expect("text");
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["reply"] => self.replies -= 1,
            ["signal" | "pong"] => {}
            [conversation, seq] => {
                let conversation: usize = conversation.parse().expect("a conversation");
                self.got[conversation].push(seq.parse().expect("a seq"));
            }
            _ => panic!("{text}"),
        }
    }

    /// As `live.rs` does: only when everything is written, and one page at a time.
    fn asks(&mut self) {
        if self.asked.is_none() && self.writes(usize::MAX) {
            self.asked = self.outbox.next_lag();
        }
    }

    /// As the store does: a page of what is after the cursor, the connection's own events too. It is less than asked for only
    /// where there is no more.
    fn is_answered(&mut self) {
        let Some(Lag { conversation, cursor, missed }) = self.asked.take() else { return };
        let at = usize::try_from(conversation.0).expect("an index");
        let head = self.logs[at].own.len() as u64;
        let page = cursor.0 + 1..=missed.0.min(head);
        let events = page.take(PAGE).map(|seq| (Seq(seq), frame(at, seq))).collect();
        self.outbox.push_replayed(conversation, events);
    }

    /// What the client must have got: all that others wrote after its cursor, and of its own what was there before it came.
    fn expected(&self, before: &[usize]) -> Vec<Vec<u64>> {
        let of = |(log, before): (&Log, &usize)| {
            let seqs = (1..)
                .zip(&log.own)
                .filter(|(seq, own)| *seq > log.cursor && (!**own || *seq <= *before as u64));
            seqs.map(|(seq, _)| seq).collect()
        };
        self.logs.iter().zip(before).map(of).collect()
    }
}

fn log() -> impl Strategy<Value = Log> {
    proptest::collection::vec(any::<bool>(), 0..12)
        .prop_flat_map(|own| (0..=own.len() as u64).prop_map(move |cursor| Log { own: own.clone(), cursor }))
}

proptest! {
    #[test]
    fn every_event_of_others_comes_once_and_in_order(
        logs in proptest::collection::vec(log(), CONVERSATIONS),
        happening in proptest::collection::vec(happens(), 0..120),
    ) {
        let before: Vec<usize> = logs.iter().map(|log| log.own.len()).collect();
        let mut connection = Connection::new(logs);
        for what in happening {
            connection.meets(what);
            for got in &connection.got {
                prop_assert!(got.is_sorted_by(|one, next| one < next), "{got:?}");
            }
        }
        // It has caught up when there is nothing more to read, in as many pages as there can be.
        let mut pages = 2 * CONVERSATIONS + connection.logs.iter().map(|log| log.own.len()).sum::<usize>();
        while !connection.writes(usize::MAX) || connection.outbox.state().behind {
            connection.asks();
            connection.is_answered();
            prop_assert!(pages > 0, "it never catches up");
            pages -= 1;
        }
        prop_assert_eq!(&connection.got, &connection.expected(&before));
        prop_assert_eq!(connection.replies, 0);
        prop_assert_eq!(connection.metrics.catching_up.get(), 0);
        // And is live again.
        connection.meets(Happens::Published { conversation: 0, own: vec![false] });
        connection.writes(usize::MAX);
        prop_assert_eq!(&connection.got, &connection.expected(&before));
    }
}

fn event(seq: u64) -> Gathered {
    Gathered { seq: Seq(seq), frame: Bytes::from_static(&[b'x'; 60]), own: None, stored: Instant::now() }
}

/// An outbox whose queue is full, and that may have so many lags.
fn full(lags: u32) -> (Outbox, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let outbox = Outbox::new(&limits(lags), metrics.clone());
    outbox.push_reply(Bytes::from_static(&[b'x'; 100]));
    (outbox, metrics)
}

#[test]
fn a_connection_with_one_lag_too_many_is_closed_and_gets_no_further_event() {
    let (outbox, metrics) = full(2);
    for conversation in 0..2 {
        outbox.push_events(ConversationKey(conversation), &[event(1)]);
        outbox.push_events(ConversationKey(conversation), &[event(2)]);
    }
    assert_eq!(
        (outbox.state().closing, metrics.catching_up.get()),
        (None, 2),
        "no further lag, no further room"
    );
    let page = outbox.next_lag().expect("a lag");
    outbox.push_lag(ConversationKey(2), Seq(0), Seq(1));
    assert_eq!((outbox.state().closing, metrics.catching_up.get()), (Some(CloseCode::TryLater), 0));
    assert!(metrics.encode().contains("switchboard_dropped_total{reason=\"too_far_behind\"} 1"));
    // What the client has of a conversation ends somewhere: nothing comes behind what is missing.
    outbox.written(outbox.state().bytes);
    outbox.push_replayed(page.conversation, vec![(Seq(1), Bytes::from_static(b"late"))]);
    outbox.push_events(ConversationKey(0), &[event(3)]);
    outbox.push_lag(ConversationKey(1), Seq(2), Seq(3));
    assert_eq!((outbox.state().bytes, outbox.state().behind), (0, false));
}

#[test]
fn lags_of_hello_do_not_count() {
    let (outbox, _) = full(1);
    for conversation in 0..100 {
        outbox.resume_from(ConversationKey(conversation), Seq(0), Seq(1));
    }
    outbox.push_events(ConversationKey(100), &[event(1)]);
    assert_eq!(outbox.state().closing, None);
    outbox.push_events(ConversationKey(101), &[event(1)]);
    assert_eq!(outbox.state().closing, Some(CloseCode::TryLater));
}

#[test]
fn conversations_that_lag_take_turns() {
    let (outbox, metrics) = full(3);
    for conversation in 0..3 {
        outbox.push_lag(ConversationKey(conversation), Seq(0), Seq(4));
    }
    let mut turns = Vec::new();
    while let Some(lag) = outbox.next_lag() {
        turns.push((lag.conversation.0, lag.cursor.0));
        let page = [1, 2].map(|next| (Seq(lag.cursor.0 + next), Bytes::from_static(b"x")));
        outbox.push_replayed(lag.conversation, page.to_vec());
    }
    assert_eq!(turns, [(0, 0), (1, 0), (2, 0), (0, 2), (1, 2), (2, 2)]);
    assert_eq!(metrics.catching_up.get(), 0);
}
