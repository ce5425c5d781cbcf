//! The users and conversations of a run, which all parts of the run share.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use rustc_hash::FxHashMap;
use switchboard_client::Client;
use switchboard_protocol::{ConversationId, Create, Hello, RoomId, UserId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::CommonArgs;
use crate::process::SECRET;
use crate::record::Record;

/// The number of users whose devices use the Rust client.
const USERS: usize = 24;

/// The number of users in each program that uses the SDK.
pub(crate) const SDK_USERS: usize = 3;

/// The number of programs that use the SDK.
const SDK_PROGRAMS: usize = 2;

/// The number of rooms whose members never change.
const CLOSED_ROOMS: usize = 6;

/// The number of rooms that users join and leave.
const OPEN_ROOMS: usize = 2;

/// The number of users with whom each user has a direct conversation.
const DIRECT_PEERS_PER_USER: usize = 3;

/// The phases of a run, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Clients send, and faults are injected.
    Faults,
    /// Clients send, and no fault is active, so that delays can be measured.
    Measuring,
    /// Clients send nothing new, and wait for the acknowledgements of what they sent.
    Draining,
    /// Every client reads every log up to its end.
    CatchUp,
}

/// A conversation and the users who may write in it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) id: ConversationId,
    /// The users who may write in the conversation. The first one is a room's admin and never leaves.
    pub(crate) members: Vec<UserId>,
    /// Whether users join and leave the room during the run.
    pub(crate) is_public: bool,
}

/// The state that all parts of a run share.
pub(crate) struct World {
    pub(crate) record: Record,
    /// The WebSocket URL of each node, through its proxy.
    pub(crate) proxied_urls: Vec<String>,
    /// The WebSocket URL of each node, without a proxy.
    pub(crate) direct_urls: Vec<String>,
    /// The URL to which the SDK connects.
    pub(crate) sdk_url: String,
    pub(crate) users: Vec<UserId>,
    /// The users whose apps use the TypeScript SDK.
    pub(crate) sdk_users: Vec<UserId>,
    pub(crate) rooms: Vec<Room>,
    /// Messages a second that all Rust devices together try to send.
    pub(crate) rate: f64,
    /// The current phase of the run.
    pub(crate) phase: watch::Receiver<Phase>,
    /// The number of devices that have no unacknowledged messages, in the phase `Draining`.
    pub(crate) idle_devices: AtomicUsize,
    /// Path of the program that uses the SDK; `None` leaves the SDK out.
    pub(crate) sdk: Option<PathBuf>,
    /// When each user last attempted to join an open room, by user and room.
    pub(crate) join_attempts: std::sync::Mutex<FxHashMap<(UserId, ConversationId), Instant>>,
}

/// Makes up the users of the Rust client, the users of the SDK, and the rooms.
fn create_users_and_rooms(sdk_users: usize) -> (Vec<UserId>, Vec<UserId>, Vec<Room>) {
    let name = |name: String| UserId::parse(&name).expect("a user id");
    let users: Vec<UserId> = (0..USERS).map(|n| name(format!("u{n}"))).collect();
    let sdk: Vec<UserId> = (0..sdk_users).map(|n| name(format!("s{n}"))).collect();
    let room = |name: String, members: Vec<UserId>, open: bool| {
        let id = ConversationId::room(&RoomId::parse(&name).expect("a room id"));
        Room { id, members, is_public: open }
    };
    let everybody = users.iter().chain(&sdk).cloned().collect();
    let mut rooms = vec![room("everybody".to_owned(), everybody, false)];
    for n in 0..CLOSED_ROOMS {
        let some = (0..8).map(|i| users[(n * 4 + i * (n + 1)) % USERS].clone());
        let mut members: Vec<UserId> = some.chain(sdk.iter().skip(n % 3).step_by(3).cloned()).collect();
        let mut met = std::collections::HashSet::new();
        members.retain(|user| met.insert(user.clone()));
        rooms.push(room(format!("room{n}"), members, false));
    }
    for n in 0..OPEN_ROOMS {
        let members = users.iter().skip(n).step_by(4).cloned().collect();
        rooms.push(room(format!("open{n}"), members, true));
    }
    for (n, user) in users.iter().enumerate() {
        for step in 1..=DIRECT_PEERS_PER_USER {
            let other = &users[(n + step) % USERS];
            let members = vec![user.clone(), other.clone()];
            rooms.push(Room { id: ConversationId::direct(user, other), members, is_public: false });
        }
    }
    (users, sdk, rooms)
}

impl World {
    /// Makes the state of a run. The addresses of the servers are set later.
    pub(crate) fn new(common: &CommonArgs, rate: f64, start: Instant, phase: watch::Receiver<Phase>) -> Self {
        let sdk = (!common.sdk.as_os_str().is_empty()).then(|| common.sdk.clone());
        let (users, sdk_users, rooms) =
            create_users_and_rooms(if sdk.is_some() { SDK_USERS * SDK_PROGRAMS } else { 0 });
        Self {
            record: Record::new(start),
            proxied_urls: Vec::new(),
            direct_urls: Vec::new(),
            sdk_url: String::new(),
            users,
            sdk_users,
            rooms,
            rate,
            phase,
            idle_devices: Default::default(),
            sdk,
            join_attempts: Default::default(),
        }
    }

    /// Creates the rooms on the server.
    pub(crate) async fn create_rooms(&self) -> anyhow::Result<()> {
        for room in self.rooms.iter().filter(|room| room.id.is_room()) {
            let admin = &room.members[0];
            let (mut client, _) = Client::connect(self.direct_url(0), hello(admin)).await?;
            let create = Create {
                room: RoomId::parse(room.id.as_str()).ok(),
                title: None,
                public: room.is_public,
                members: room.members[1..].to_vec(),
            };
            client.call(create).await.with_context(|| format!("cannot make {}", room.id))?;
            client.close().await;
        }
        Ok(())
    }

    /// The conversations in which the user is or may become a member.
    pub(crate) fn rooms_of<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = &'a Room> {
        self.rooms.iter().filter(move |room| room.members.contains(user))
    }

    /// The direct WebSocket URL of node `n`, without a proxy. `n` may exceed the number of nodes; it then wraps around.
    pub(crate) fn direct_url(&self, n: usize) -> &str {
        &self.direct_urls[n % self.direct_urls.len()]
    }

    /// Whether users join and leave this conversation during the run.
    pub(crate) fn is_open(&self, id: &ConversationId) -> bool {
        self.rooms.iter().any(|room| room.is_public && room.id == *id)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Records that the user tries to join the room now, or was invited to it now.
    pub(crate) fn record_join_attempt(&self, user: &UserId, room: &ConversationId) {
        let mut join_attempts = self.join_attempts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        join_attempts.insert((user.clone(), room.clone()), Instant::now());
    }

    /// Whether the user attempted to join the room within this time.
    pub(crate) fn attempted_join_within(
        &self,
        user: &UserId,
        room: &ConversationId,
        within: Duration,
    ) -> bool {
        let join_attempts = self.join_attempts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        join_attempts.get(&(user.clone(), room.clone())).is_some_and(|time| time.elapsed() < within)
    }
}

/// Makes a token for a user. It is valid for longer than every run lasts.
pub(crate) fn token(user: &UserId) -> String {
    signed(&serde_json::json!({ "sub": user.as_str(), "exp": 4_000_000_000_u64 }))
}

/// The same for a moderator.
pub(crate) fn moderator_token(name: &str) -> String {
    signed(&serde_json::json!({ "sub": name, "exp": 4_000_000_000_u64, "switchboard": { "moderate": true } }))
}

fn signed(claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("a token can be signed")
}

pub(crate) fn hello(user: &UserId) -> Hello {
    Hello { token: Some(token(user)), user: None, device: None, cursors: Default::default() }
}
