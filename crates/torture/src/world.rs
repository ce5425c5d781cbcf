//! Who is there, in which conversations; the same for every part of a run.

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

use crate::Common;
use crate::process::SECRET;
use crate::record::Record;

/// Users behind the Rust client.
const USERS: usize = 24;

/// Users behind the SDK, in each of its programs.
pub(crate) const SDK_USERS: usize = 3;

/// Programs on the SDK.
const SDK_PROGRAMS: usize = 2;

/// Rooms whose members never change.
const ROOMS: usize = 6;

/// Rooms that people come into and leave.
const OPEN_ROOMS: usize = 2;

/// Users with whom each user talks directly.
const PEERS: usize = 3;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everybody talks, everything fails.
    Storm,
    /// Everybody talks and listens, and nothing fails: the time in which delays are measured.
    Fair,
    /// The faults are over. Nothing new is begun, and what was said is acknowledged.
    Calm,
    /// Everybody gets what is there.
    End,
}

/// A conversation that somebody may write in.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    pub(crate) id: ConversationId,
    /// The first one is its admin, and stays.
    pub(crate) members: Vec<UserId>,
    /// Members come and go.
    pub(crate) open: bool,
}

/// What all parts of a run share.
pub(crate) struct World {
    pub(crate) record: Record,
    /// The WebSocket of each node, through the network that fails.
    pub(crate) doors: Vec<String>,
    /// The same, directly.
    pub(crate) direct: Vec<String>,
    /// Where the SDK connects.
    pub(crate) sdk_url: String,
    pub(crate) users: Vec<UserId>,
    /// Users behind the SDK.
    pub(crate) sdk_users: Vec<UserId>,
    pub(crate) rooms: Vec<Room>,
    /// Sends a second that all Rust devices together try to make.
    pub(crate) rate: f64,
    /// How far the run is.
    pub(crate) phase: watch::Receiver<Phase>,
    /// Devices that have nothing more to say.
    pub(crate) quiet: AtomicUsize,
    /// Where the SDK's program is; none leaves the SDK out.
    pub(crate) sdk: Option<PathBuf>,
    /// When somebody was last asked, or asked, to come into an open room.
    pub(crate) comings: std::sync::Mutex<FxHashMap<(UserId, ConversationId), Instant>>,
}

/// Users, SDK users and rooms.
fn cast(sdk_users: usize) -> (Vec<UserId>, Vec<UserId>, Vec<Room>) {
    let name = |name: String| UserId::parse(&name).expect("a user id");
    let users: Vec<UserId> = (0..USERS).map(|n| name(format!("u{n}"))).collect();
    let sdk: Vec<UserId> = (0..sdk_users).map(|n| name(format!("s{n}"))).collect();
    let room = |name: String, members: Vec<UserId>, open: bool| {
        let id = ConversationId::room(&RoomId::parse(&name).expect("a room id"));
        Room { id, members, open }
    };
    let everybody = users.iter().chain(&sdk).cloned().collect();
    let mut rooms = vec![room("everybody".to_owned(), everybody, false)];
    for n in 0..ROOMS {
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
        for step in 1..=PEERS {
            let other = &users[(n + step) % USERS];
            let members = vec![user.clone(), other.clone()];
            rooms.push(Room { id: ConversationId::direct(user, other), members, open: false });
        }
    }
    (users, sdk, rooms)
}

impl World {
    /// One whose servers have no addresses yet.
    pub(crate) fn new(common: &Common, rate: f64, start: Instant, phase: watch::Receiver<Phase>) -> Self {
        let sdk = (!common.sdk.as_os_str().is_empty()).then(|| common.sdk.clone());
        let (users, sdk_users, rooms) = cast(if sdk.is_some() { SDK_USERS * SDK_PROGRAMS } else { 0 });
        Self {
            record: Record::new(start),
            doors: Vec::new(),
            direct: Vec::new(),
            sdk_url: String::new(),
            users,
            sdk_users,
            rooms,
            rate,
            phase,
            quiet: Default::default(),
            sdk,
            comings: Default::default(),
        }
    }

    /// Makes the rooms.
    pub(crate) async fn fill(&self) -> anyhow::Result<()> {
        for room in self.rooms.iter().filter(|room| room.id.is_room()) {
            let admin = &room.members[0];
            let (mut client, _) = Client::connect(self.direct(0), hello(admin)).await?;
            let create = Create {
                room: RoomId::parse(room.id.as_str()).ok(),
                title: None,
                public: room.open,
                members: room.members[1..].to_vec(),
            };
            client.call(create).await.with_context(|| format!("cannot make {}", room.id))?;
            client.close().await;
        }
        Ok(())
    }

    /// The conversations in which a user may be.
    pub(crate) fn rooms_of<'a>(&'a self, user: &'a UserId) -> impl Iterator<Item = &'a Room> {
        self.rooms.iter().filter(move |room| room.members.contains(user))
    }

    /// A node's WebSocket, directly: that of the `n`th, around and around.
    pub(crate) fn direct(&self, n: usize) -> &str {
        &self.direct[n % self.direct.len()]
    }

    /// Whether members come and go there.
    pub(crate) fn is_open(&self, id: &ConversationId) -> bool {
        self.rooms.iter().any(|room| room.open && room.id == *id)
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Somebody may come in, or come back, from now on.
    pub(crate) fn may_come(&self, user: &UserId, room: &ConversationId) {
        let mut comings = self.comings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        comings.insert((user.clone(), room.clone()), Instant::now());
    }

    /// Whether somebody asked for that within this time.
    pub(crate) fn may_have_come(&self, user: &UserId, room: &ConversationId, within: Duration) -> bool {
        let comings = self.comings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        comings.get(&(user.clone(), room.clone())).is_some_and(|time| time.elapsed() < within)
    }
}

/// A token for a user, for longer than any run.
pub(crate) fn token(user: &UserId) -> String {
    let claims = serde_json::json!({ "sub": user.as_str(), "exp": 4_000_000_000_u64 });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token can be signed")
}

pub(crate) fn hello(user: &UserId) -> Hello {
    Hello { token: Some(token(user)), user: None, device: None, cursors: Default::default() }
}
