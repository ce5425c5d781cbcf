//! Random commands of a blocker, a blocked user and others: while a block holds, nothing of the blocked user reaches the blocker.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{CommandId, Event, EventBody, Ping, Seq};

use super::start_on_postgresql;
use crate::check::SeededRandom;
use crate::support::{Cluster, Person, Server, SharedEngines};

/// Part of everything that mallory writes. No other user writes it.
const MARK: &str = "SECRET";

/// The reactions of mallory, which no other user makes.
const EMOJI: [&str; 2] = ["😈", "💀"];

/// How many messages may come after the read cursor for an exact count.
const COUNTED: u32 = 30;

/// How many events a replay has at most, so that there are gaps.
const REPLAY: u32 = 12;

const STEPS: u64 = 250;

fn settings(config: &mut Config) {
    config.limits.unread = COUNTED;
    config.limits.replay = REPLAY;
    config.limits.page = 40;
}

/// What the blocker knows.
struct Blocker {
    person: Person,
    blocks: bool,
    /// Whether bob is in the room.
    is_in: bool,
    /// The last event of the room that came.
    cursor: u64,
    /// Own events of the room, which came as `ok`.
    own: BTreeSet<u64>,
}

impl Blocker {
    /// Asserts that an answer or a frame has nothing of mallory, while the block holds.
    fn inspects(&self, what: &impl std::fmt::Debug) {
        if !self.blocks {
            return;
        }
        let text = format!("{what:?}");
        assert!(!text.contains(MARK), "{text}");
        assert!(EMOJI.iter().all(|emoji| !text.contains(emoji)), "{text}");
        assert!(!text.contains("@bob:mallory"), "a list has the direct conversation: {text}");
    }

    async fn asks(&mut self, name: &str, fields: Value) -> Option<OkBody> {
        let answer = self.person.tries(name, fields).await.ok()?;
        if let OkBody::Stored { conversation, seq, .. } = &answer
            && conversation.as_str() == "#room"
        {
            self.own.insert(seq.0);
        }
        if !matches!(name, "send" | "read") {
            self.inspects(&answer);
        }
        Some(answer)
    }

    /// Takes all frames that have come.
    async fn takes_frames(&mut self) {
        let id = self.person.client.submit(Ping {}).await.expect("sent");
        let pong = Reply::Pong { id: Some(CommandId::Number(id)) };
        loop {
            match self.takes_frame().await {
                Some(reply) if reply == pong => return,
                None => {}
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    /// Blocks mallory, or ends the block. What comes before the `ok` is from before.
    async fn changes_block(&mut self) {
        let on = !self.blocks;
        let id = self.person.submits("block", json!({"user": "mallory", "on": on})).await;
        loop {
            if !on {
                // The block may have ended at any moment from here on.
                self.blocks = false;
            }
            if let Some(Reply::Ok(ok)) = self.takes_frame().await {
                assert_eq!(ok.id, Some(CommandId::Number(id)));
                self.blocks = on;
                return;
            }
        }
    }

    /// Takes a frame, and returns it if it answers a command.
    async fn takes_frame(&mut self) -> Option<Reply> {
        let frame = self.person.next().await;
        self.inspects(&frame);
        match frame {
            ServerFrame::Event(event) => self.takes_event(&event),
            ServerFrame::Signal(signal) => {
                assert!(!self.blocks || !format!("{signal:?}").contains("mallory"), "{signal:?}");
            }
            ServerFrame::Reply(Reply::Gap { conversation, after, head }) => {
                if conversation.as_str() == "#room" {
                    self.reads_log(after.0, head.0).await;
                }
            }
            ServerFrame::Reply(reply) => return Some(reply),
        }
        None
    }

    fn takes_event(&mut self, event: &Event) {
        if event.conversation.as_str() != "#room" {
            return;
        }
        self.passes_own();
        assert_eq!(event.seq.0, self.cursor + 1, "a number is missing: {event:?}");
        self.cursor = event.seq.0;
        self.passes_own();
    }

    /// Moves the cursor behind own events, once it has come to them.
    fn passes_own(&mut self) {
        while self.own.remove(&(self.cursor + 1)) {
            self.cursor += 1;
        }
    }

    async fn reads_log(&mut self, after: u64, head: u64) {
        let events = self.person.log_after("#room", after.min(self.cursor)).await;
        self.inspects(&events);
        for event in events {
            self.passes_own();
            if event.seq.0 > self.cursor && event.seq.0 <= head {
                self.takes_event(&event);
            }
        }
        assert!(self.cursor >= head, "{} of {head}", self.cursor);
    }

    /// Asserts that the whole log has no hole, and that mallory's content in it is withheld.
    async fn compares_log(&mut self) {
        let Some(page) = self.asks("sync", json!({"conversation": "#room", "after": 0, "limit": 1})).await
        else {
            return;
        };
        let OkBody::Log { head, .. } = page else { panic!("{page:?}") };
        let log = self.person.log("#room").await;
        self.inspects(&log);
        assert_eq!(log.len() as u64, head.0);
        for (seq, event) in (1..).zip(&log) {
            assert_eq!(event.seq, Seq(seq));
            let is_withheld = matches!(event.body, EventBody::Withheld { .. });
            let has_content = matches!(
                event.body,
                EventBody::Message { .. } | EventBody::Edit { .. } | EventBody::React { .. }
            );
            if is_withheld || event.from.as_str() == "mallory" && has_content {
                assert_eq!(is_withheld, self.blocks, "{event:?}");
            }
        }
    }
}

/// The unread messages of bob in the room, counted in the log that alice sees. `None` where the server may give an upper figure.
fn counted(log: &[Event], read: Seq, blocks: bool) -> Option<u64> {
    let after = || {
        let messages = log.iter().filter(|event| matches!(event.body, EventBody::Message { .. }));
        messages.filter(|event| event.seq > read)
    };
    if blocks && after().count() > COUNTED as usize {
        return None;
    }
    let others = after().filter(|event| event.from.as_str() != "bob");
    Some(others.filter(|event| !blocks || event.from.as_str() != "mallory").count() as u64)
}

struct World<'s> {
    servers: Vec<&'s Server>,
    random: SeededRandom,
    alice: Person,
    mallory: Person,
    bob: Blocker,
}

impl<'s> World<'s> {
    async fn new(servers: Vec<&'s Server>, seed: u64) -> Self {
        let at = |place: usize| servers[place % servers.len()];
        let mut alice = at(0).connects("alice").await;
        let mut mallory = at(1).connects("mallory").await;
        let person = at(2).connects("bob").await;
        alice.makes_public_room("room", &["mallory", "bob"]).await;
        mallory.says("@bob", MARK).await;
        let bob = Blocker { person, blocks: false, is_in: true, cursor: 0, own: BTreeSet::new() };
        Self { servers, random: SeededRandom(seed), alice, mallory, bob }
    }

    /// Waits until what was stored has reached all nodes.
    async fn settles(&mut self) {
        self.bob.takes_frames().await;
        if self.servers.len() == 1 || !self.bob.is_in {
            return;
        }
        // A message of alice that has arrived shows that all before it has.
        let seq = self.alice.says("#room", "mark").await;
        while self.bob.cursor < seq {
            self.bob.takes_frames().await;
        }
    }

    async fn steps(&mut self, number: u64) {
        let target = 1 + self.random.random_below(30);
        let text = format!("{MARK} {number}");
        match self.random.random_below(24) {
            0..=4 => drop(self.mallory.tries("send", json!({"to": "#room", "text": text})).await),
            5 => {
                let fields = json!({"to": "#room", "data": {"about": MARK}, "reply_to": target});
                drop(self.mallory.tries("send", fields).await);
            }
            6 => drop(self.mallory.tries("send", json!({"to": "@bob", "text": text})).await),
            7 | 8 => {
                let fields = json!({"conversation": "#room", "target": target, "text": text});
                drop(self.mallory.tries("edit", fields).await);
            }
            9 | 10 => {
                let (emoji, on) = (self.random.random_one_of(&EMOJI), self.random.random_below(3) > 0);
                let fields = json!({"conversation": "#room", "target": target, "emoji": emoji, "on": on});
                drop(self.mallory.tries("react", fields).await);
            }
            11 => {
                let place = self.random.random_one_of(&["#room", "@bob"]);
                let command = self.random.random_one_of(&["typing", "read", "received"]);
                let mut fields = json!({"conversation": place});
                if command != "typing" {
                    fields["upto"] = json!(target);
                }
                drop(self.mallory.tries(command, fields).await);
            }
            12 => {
                let fields = json!({"conversation": "#room", "target": target});
                drop(self.mallory.tries("delete", fields).await);
            }
            13 | 14 => drop(self.alice.says("#room", "hello").await),
            15 => {
                let fields = json!({"conversation": "#room", "target": target, "emoji": "👍"});
                drop(self.alice.tries("react", fields).await);
            }
            16 => drop(self.bob.asks("send", json!({"to": "#room", "text": "mine"})).await),
            _ => self.bob_does(target).await,
        }
        self.bob.takes_frames().await;
    }

    async fn bob_does(&mut self, target: u64) {
        self.settles().await;
        match self.random.random_below(9) {
            0 | 1 => self.bob.changes_block().await,
            2 => drop(self.bob.asks("read", json!({"conversation": "#room", "upto": target})).await),
            3 => {
                let fields = if self.random.random_below(2) == 0 {
                    json!({"conversation": "#room", "before": target})
                } else {
                    json!({"conversation": "#room", "around": target, "limit": 8})
                };
                drop(self.bob.asks("history", fields).await);
            }
            4 => self.bob.compares_log().await,
            5 => {
                let name = if self.bob.is_in { "leave" } else { "join" };
                self.bob.asks(name, json!({"conversation": "#room"})).await.expect("a public room");
                self.bob.is_in = !self.bob.is_in;
            }
            6 | 7 => {
                let cursor = self.bob.cursor;
                let place = usize::try_from(self.random.random_below(3)).expect("few");
                let server = self.servers[place % self.servers.len()];
                self.bob.person = server.resumes("bob", &[("#room", cursor), ("@bob:mallory", 0)]).await;
                // Another connection gets own events as others.
                self.bob.own.clear();
                self.bob.inspects(&self.bob.person.welcome);
            }
            _ => self.compares_summary().await,
        }
    }

    async fn compares_summary(&mut self) {
        let page = self.bob.asks("conversations", json!({})).await.expect("a page");
        let OkBody::Conversations { conversations, .. } = page else { panic!("{page:?}") };
        let log = self.alice.log("#room").await;
        for summary in conversations {
            if summary.conversation.as_str() == "#room"
                && summary.head.0 == log.len() as u64
                && let Some(unread) = counted(&log, summary.read, self.bob.blocks)
            {
                assert_eq!(summary.unread, unread, "after {}", summary.read);
            }
        }
        drop(self.bob.asks("members", json!({"conversation": "#room"})).await);
    }
}

async fn nothing_of_a_blocked_user_arrives(servers: Vec<&Server>, seed: u64) {
    let mut world = World::new(servers, seed).await;
    world.bob.takes_frames().await;
    for number in 0..STEPS {
        world.steps(number).await;
    }
    world.settles().await;
    world.bob.compares_log().await;
}

async fn with_the_usual_limits(server: &Server) {
    nothing_of_a_blocked_user_arrives(vec![server], 1).await;
}

#[tokio::test]
async fn nothing_of_a_blocked_user_arrives_in_any_order() {
    with_the_usual_limits(&Server::start().await).await;
}

#[tokio::test]
async fn nothing_of_a_blocked_user_arrives_in_any_order_on_postgresql() {
    with_the_usual_limits(&start_on_postgresql().await).await;
}

#[tokio::test]
async fn nothing_of_a_blocked_user_arrives_over_gaps_and_pages() {
    for seed in 2..5 {
        let server = Server::start_with(settings).await;
        nothing_of_a_blocked_user_arrives(vec![&server], seed).await;
    }
}

#[tokio::test]
async fn nothing_of_a_blocked_user_arrives_over_gaps_and_pages_on_three_nodes() {
    let cluster = Cluster::start_on(SharedEngines::new().await, 3, settings).await;
    let servers = (0..3).map(|node| cluster.node(node)).collect();
    nothing_of_a_blocked_user_arrives(servers, 5).await;
}
