//! Decodes four bytes to a step: a command, its user and time, its conversation, and its arguments.

use switchboard_protocol::{
    ConversationId, Create, Data, Delete, Edit, Emoji, Invite, Join, Key, Leave, React, Read, Received,
    Remove, Rename, Role, RoomId, Send, Seq, SetRole, Target, Text, Timestamp, Title, UserId,
};

use switchboard_store::Change;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const ROOMS: [&str; 3] = ["a", "b", "c"];
const ROLES: [Role; 3] = [Role::Admin, Role::Member, Role::Reader];

pub(super) enum Step {
    Change { actor: UserId, change: Change, now: Timestamp },
    Read { user: UserId, device: usize },
    Commit,
    RollBack,
}

fn user(n: u8) -> UserId {
    UserId::parse(USERS[usize::from(n) % USERS.len()]).expect("a user id")
}

pub(super) fn users() -> Vec<UserId> {
    USERS.map(|name| UserId::parse(name).expect("a user id")).to_vec()
}

fn room(n: u8) -> RoomId {
    RoomId::parse(ROOMS[usize::from(n) % ROOMS.len()]).expect("a room id")
}

/// Every conversation that a user could be in.
pub(super) fn conversations(user: &UserId) -> Vec<ConversationId> {
    let rooms = (0..ROOMS.len() as u8).map(|n| ConversationId::room(&room(n)));
    rooms.chain(users().iter().map(|other| ConversationId::direct(user, other))).collect()
}

/// Decodes a conversation: numbers 0 to 4 are rooms, and the others are direct conversations.
fn target_of(n: u8) -> Target {
    match n % 8 {
        n @ 0..=4 => Target::Conversation(ConversationId::room(&room(n))),
        n => Target::User(user(n)),
    }
}

fn text(n: u8) -> Option<Text> {
    Some(
        Text::parse(["", "hi", "ä\u{1F44D}\"\\", "long "][usize::from(n) % 4].repeat(1 + usize::from(n / 4)))
            .expect("a text"),
    )
}

fn data(n: u8) -> Option<Data> {
    n.is_multiple_of(3)
        .then(|| serde_json::from_str(&format!(r#"{{"n":{n},"deep":[{{"x":null}}]}}"#)).expect("an object"))
}

/// Decodes a step. Several of the 32 verbs mean the same command, so that frequent commands are drawn more often.
pub(super) fn decode_step([verb, who, at, n]: [u8; 4]) -> Step {
    let (actor, conversation) = (user(who), target_of(at));
    // The clock of the test jumps forward and back.
    let now = Timestamp::from_millis(1_000 + i64::from(who / 6) * 100);
    let target = Seq(u64::from(n % 16));
    let (named, role) = (user(n), ROLES[usize::from(n / 8) % ROLES.len()]);
    let change = match verb % 32 {
        0..=8 => {
            let key = (n % 4 > 0).then(|| Key::parse(format!("k{}", n % 7)).expect("a key"));
            let reply_to = (n % 5 == 0).then_some(target);
            Change::Send(Send { to: conversation, text: text(n), data: data(n), key, reply_to })
        }
        9 | 10 => Change::Edit(Edit { conversation, target, text: text(n / 2), data: data(n / 2) }),
        11 | 12 => Change::Delete(Delete { conversation, target }),
        13 | 14 => {
            let emoji = Emoji::parse(["👍", "x"][usize::from(at / 8) % 2]).expect("an emoji");
            Change::React(React { conversation, target, emoji, on: n < 160 })
        }
        15 | 16 => Change::Read(Read { conversation, upto: target }),
        17 => Change::Received(Received { conversation, upto: target }),
        18 | 19 => {
            let members = (0..n % 4).map(|member| user(member + n % 3)).collect();
            let title = (n % 2 == 0).then(|| Title::parse("A title").expect("a title"));
            Change::Create(Create { room: (n < 250).then(|| room(at)), title, public: n % 8 < 5, members })
        }
        20 | 21 => Change::Join(Join { conversation }),
        22 => Change::Leave(Leave { conversation }),
        23 | 24 => Change::Invite(Invite { conversation, user: named, role }),
        25 => Change::Remove(Remove { conversation, user: named, ban: false, until: None }),
        26 => Change::SetRole(SetRole { conversation, user: named, role, until: None }),
        27 => Change::Rename(Rename {
            conversation,
            title: Title::parse(format!("Title {n}")).expect("a title"),
        }),
        28 | 29 => return Step::Read { user: actor, device: usize::from(n % 2) },
        30 => return Step::Commit,
        _ => return Step::RollBack,
    };
    Step::Change { actor, change, now }
}
