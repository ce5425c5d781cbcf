//! Property test of connections that resume or lag, against a model of the log: for every interleaving of live events, pages of the
//! log and full queues, a connection receives every event that others sent once and in order.

use proptest::prelude::*;

use super::*;

/// The queue's limit in bytes: about ten events.
const QUEUE_LIMIT: usize = 100;

/// The most events of a page of the log.
const PAGE_EVENTS: usize = 4;

const CONVERSATIONS: usize = 3;

fn limits(lags: u32) -> Limits {
    Limits { queue: 100, lags, ..Limits::default() }
}

/// A step of the test on a connection.
#[derive(Debug, Clone)]
enum Action {
    /// Publish events to a conversation. `own` says for each event whether the connection itself sent it.
    Publish { conversation: usize, own: Vec<bool> },
    /// Queue a signal, which may be dropped, or a reply, which may not.
    Push { reply: bool },
    /// Queue a pong.
    Ping,
    /// Write this many frames to the socket.
    Write(usize),
    /// Write everything, then read a page of the log if there is a lag and no page is pending.
    ReadPage,
    /// The pending page arrives.
    PageArrives,
    /// The store fails, so the page must be read again.
    PageFails,
}

fn any_action() -> impl Strategy<Value = Action> {
    let own = proptest::collection::vec(proptest::bool::weighted(0.2), 1..8);
    prop_oneof![
        4 => (0..CONVERSATIONS, own).prop_map(|(conversation, own)| Action::Publish { conversation, own }),
        1 => any::<bool>().prop_map(|reply| Action::Push { reply }),
        1 => Just(Action::Ping),
        3 => (0_usize..12).prop_map(Action::Write),
        3 => Just(Action::ReadPage),
        3 => Just(Action::PageArrives),
        1 => Just(Action::PageFails),
    ]
}

/// The log of a conversation: for each event, whether the connection sent it. `cursor` is the cursor in the connection's `hello`.
#[derive(Debug, Clone, Default)]
struct Log {
    own: Vec<bool>,
    cursor: u64,
}

struct Connection {
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    logs: Vec<Log>,
    writing: VecDeque<QueuedFrames>,
    /// The events that the client received, by conversation.
    received: Vec<Vec<u64>>,
    replies: usize,
    /// The lag for which a page was requested that has not arrived yet; `None` if no page is pending.
    pending_page: Option<Lag>,
}

/// The frame of an event. The sizes differ, so that some frames still fit into a nearly full queue and others do not.
fn frame(conversation: usize, seq: u64) -> Bytes {
    format!("{conversation} {seq}{}\n", " ".repeat(usize::try_from(seq % 5).unwrap_or(0) * 4)).into()
}

impl Connection {
    /// Resumes with cursors in logs that already have events.
    fn new(logs: Vec<Log>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let outbox = Arc::new(Outbox::new(&limits(3), metrics.clone()));
        for (conversation, log) in (0..).zip(&logs) {
            outbox.resume_from(ConversationKey(conversation), Seq(log.cursor), Seq(log.own.len() as u64));
        }
        let received = vec![Vec::new(); logs.len()];
        Self { outbox, metrics, logs, writing: VecDeque::new(), received, replies: 0, pending_page: None }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Publish { conversation, own } => self.publish(conversation, &own),
            Action::Push { reply: true } => {
                self.replies += 1;
                self.outbox.push_reply(Bytes::from_static(b"reply"));
            }
            Action::Push { reply: false } => {
                let before = self.outbox.state().bytes;
                self.outbox.push_signal(&Bytes::from_static(b"signal"));
                assert!(self.outbox.state().bytes <= QUEUE_LIMIT.max(before));
            }
            Action::Ping => self.outbox.set_pong(Bytes::from_static(b"pong")),
            Action::Write(frames) => drop(self.write_frames(frames)),
            Action::ReadPage => self.read_page(),
            Action::PageArrives => self.page_arrives(),
            Action::PageFails => self.pending_page = None,
        }
    }

    fn publish(&mut self, conversation: usize, own: &[bool]) {
        let log = &mut self.logs[conversation];
        let events: Vec<_> = own
            .iter()
            .zip(log.own.len() as u64 + 1..)
            .map(|(own, seq)| CoalescedEvent {
                seq: Seq(seq),
                frame: frame(conversation, seq),
                sender: own.then(|| self.outbox.clone()),
                learned_at: Instant::now(),
            })
            .collect();
        log.own.extend_from_slice(own);
        let before = self.outbox.state().bytes;
        let key = ConversationKey(i64::try_from(conversation).expect("few"));
        match join_frames(&events) {
            Some(joined) => self.outbox.push_joined(key, &events, &joined),
            None => self.outbox.push_events(key, &events),
        };
        assert!(self.outbox.state().bytes <= QUEUE_LIMIT.max(before), "events over the limit are queued");
    }

    /// Writes this many frames. Returns `true` if no frame is left.
    fn write_frames(&mut self, frames: usize) -> bool {
        for _ in 0..frames {
            if self.writing.is_empty() {
                self.outbox.take_frames(0, &mut self.writing);
            }
            let Some(queued) = self.writing.pop_front() else { return true };
            self.outbox.subtract_written(queued.frame.len());
            self.client_receives(&queued.frame);
        }
        self.writing.is_empty() && self.outbox.state().bytes == 0
    }

    fn client_receives(&mut self, frames: &[u8]) {
        for frame in std::str::from_utf8(frames).expect("text").lines() {
            match frame.split_whitespace().collect::<Vec<_>>()[..] {
                ["reply"] => self.replies -= 1,
                ["signal" | "pong"] => {}
                [conversation, seq] => {
                    let conversation: usize = conversation.parse().expect("a conversation");
                    self.received[conversation].push(seq.parse().expect("a seq"));
                }
                _ => panic!("{frame}"),
            }
        }
    }

    /// Requests a page as `live.rs` does: only when everything is written, and one page at a time.
    fn read_page(&mut self) {
        if self.pending_page.is_none() && self.write_frames(usize::MAX) {
            self.pending_page = self.outbox.next_lag();
        }
    }

    /// Delivers the page as the store does: the events after the cursor, including those that the connection sent. Only the last
    /// page of the log may be short.
    fn page_arrives(&mut self) {
        let Some(Lag { conversation, cursor, missed }) = self.pending_page.take() else { return };
        let at = usize::try_from(conversation.0).expect("an index");
        let head = self.logs[at].own.len() as u64;
        let page = cursor.0 + 1..=missed.0.min(head);
        let events = page.take(PAGE_EVENTS).map(|seq| (Seq(seq), frame(at, seq))).collect();
        self.outbox.push_replayed(conversation, 0, events);
    }

    /// The events that the client must have received: all events of others after its cursor, and its own events from before it
    /// connected.
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

fn any_log() -> impl Strategy<Value = Log> {
    proptest::collection::vec(any::<bool>(), 0..12)
        .prop_flat_map(|own| (0..=own.len() as u64).prop_map(move |cursor| Log { own: own.clone(), cursor }))
}

proptest! {
    #[test]
    fn every_event_of_others_is_delivered_once_and_in_order(
        logs in proptest::collection::vec(any_log(), CONVERSATIONS),
        actions in proptest::collection::vec(any_action(), 0..120),
    ) {
        let before: Vec<usize> = logs.iter().map(|log| log.own.len()).collect();
        let mut connection = Connection::new(logs);
        for action in actions {
            connection.apply(action);
            for received in &connection.received {
                prop_assert!(received.is_sorted_by(|one, next| one < next), "{received:?}");
            }
        }
        // The connection reads the rest of the log, in a bounded number of pages.
        let mut pages = 2 * CONVERSATIONS + connection.logs.iter().map(|log| log.own.len()).sum::<usize>();
        while !connection.write_frames(usize::MAX) || connection.outbox.state().has_lag {
            connection.read_page();
            connection.page_arrives();
            prop_assert!(pages > 0, "the connection never catches up");
            pages -= 1;
        }
        prop_assert_eq!(&connection.received, &connection.expected(&before));
        prop_assert_eq!(connection.replies, 0);
        prop_assert_eq!(connection.metrics.lag_count.get(), 0);
        // The connection has no lag any more, so it receives this event live.
        connection.apply(Action::Publish { conversation: 0, own: vec![false] });
        connection.write_frames(usize::MAX);
        prop_assert_eq!(&connection.received, &connection.expected(&before));
    }
}

fn event(seq: u64) -> CoalescedEvent {
    CoalescedEvent {
        seq: Seq(seq),
        frame: Bytes::from_static(&[b'x'; 60]),
        sender: None,
        learned_at: Instant::now(),
    }
}

/// Makes an outbox with a full queue, which allows this many lags.
fn full_outbox(lags: u32) -> (Outbox, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let outbox = Outbox::new(&limits(lags), metrics.clone());
    outbox.push_reply(Bytes::from_static(&[b'x'; 100]));
    (outbox, metrics)
}

#[test]
fn a_connection_with_one_lag_too_many_is_closed_and_receives_no_further_event() {
    let (outbox, metrics) = full_outbox(2);
    for conversation in 0..2 {
        outbox.push_events(ConversationKey(conversation), &[event(1)]);
        outbox.push_events(ConversationKey(conversation), &[event(2)]);
    }
    assert_eq!(
        (outbox.state().closing, metrics.lag_count.get()),
        (None, 2),
        "a second event extends the lag"
    );
    let page = outbox.next_lag().expect("a lag");
    outbox.push_lag(ConversationKey(2), Seq(0), Seq(1));
    assert_eq!((outbox.state().closing, metrics.lag_count.get()), (Some(CloseCode::TryLater), 0));
    assert!(metrics.encode().contains("switchboard_dropped_total{reason=\"too_far_behind\"} 1"));
    // No event is queued after a missing one.
    outbox.subtract_written(outbox.state().bytes);
    outbox.push_replayed(page.conversation, 0, vec![(Seq(1), Bytes::from_static(b"late"))]);
    outbox.push_events(ConversationKey(0), &[event(3)]);
    outbox.push_lag(ConversationKey(1), Seq(2), Seq(3));
    assert_eq!((outbox.state().bytes, outbox.state().has_lag), (0, false));
}

#[test]
fn lags_from_hello_do_not_count_against_the_limit() {
    let (outbox, _) = full_outbox(1);
    for conversation in 0..100 {
        outbox.resume_from(ConversationKey(conversation), Seq(0), Seq(1));
    }
    outbox.push_events(ConversationKey(100), &[event(1)]);
    assert_eq!(outbox.state().closing, None);
    outbox.push_events(ConversationKey(101), &[event(1)]);
    assert_eq!(outbox.state().closing, Some(CloseCode::TryLater));
}

#[test]
fn lags_are_read_in_round_robin() {
    let (outbox, metrics) = full_outbox(3);
    for conversation in 0..3 {
        outbox.push_lag(ConversationKey(conversation), Seq(0), Seq(4));
    }
    let mut reads = Vec::new();
    while let Some(lag) = outbox.next_lag() {
        reads.push((lag.conversation.0, lag.cursor.0));
        let page = [1, 2].map(|next| (Seq(lag.cursor.0 + next), Bytes::from_static(b"x")));
        outbox.push_replayed(lag.conversation, 0, page.to_vec());
    }
    assert_eq!(reads, [(0, 0), (1, 0), (2, 0), (0, 2), (1, 2), (2, 2)]);
    assert_eq!(metrics.lag_count.get(), 0);
}
