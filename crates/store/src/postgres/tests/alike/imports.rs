//! Imports among live changes: the same rows in both databases, and as the log says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use switchboard_protocol::{ConversationId, Emoji, Key, Target, Text, Timestamp};

use super::{BothStores, PEOPLE, ROW_QUERIES, random_change, rows_in_sqlite};
use crate::Change;
use crate::postgres::tests::{new_database, user};
use crate::request::{
    ImportLine, ImportRecord, ImportedMessage, ImportedReaction, ImportedRead, ImportedRoom, MessageReference,
};

const ROOMS: [&str; 3] = ["#a", "#b", "#i"];

fn random_user(random: &mut Rng) -> &'static str {
    PEOPLE[random.usize(..PEOPLE.len())]
}

/// A random line at about this time. Some are refused, and some are duplicates.
fn random_record(random: &mut Rng, n: usize, now: i64) -> ImportRecord {
    let from = user(random_user(random));
    let place = if random.u8(..4) == 0 {
        format!("@{}", random_user(random))
    } else {
        ROOMS[random.usize(..ROOMS.len())].to_owned()
    };
    let to = Target::parse(&place).expect("a place");
    // A log goes on at the time of its last event, so nearly all lines are of now; a few are too early or too late.
    let at = Timestamp::from_millis(now + if random.u8(..200) == 0 { random.i64(-500..2) } else { 0 });
    let key = |n: usize| Key::parse(format!("i{n}")).expect("a key");
    let earlier = |random: &mut Rng| MessageReference {
        from: user(random_user(random)),
        key: key(n.saturating_sub(random.usize(..20))),
    };
    match random.u8(..20) {
        0 => ImportRecord::Create(ImportedRoom {
            room: ConversationId::parse(ROOMS[random.usize(..ROOMS.len())]).expect("a room"),
            at,
            from: user("alice"),
            title: None,
            public: false,
            members: vec![user("bob")],
        }),
        1 => ImportRecord::Reaction(ImportedReaction {
            to,
            from,
            at,
            react: Emoji::parse(["x", "y", "z"][random.usize(..3)]).expect("an emoji"),
            target: earlier(random),
        }),
        2 => ImportRecord::Read(ImportedRead { read: to, from, upto: earlier(random) }),
        _ => {
            let n = if random.u8(..30) == 0 { n.saturating_sub(random.usize(..20)) } else { n };
            let text = Some(Text::parse(format!("text {n}")).expect("a text"));
            let reply_to = (random.u8(..60) == 0).then(|| earlier(random));
            ImportRecord::Message(ImportedMessage { to, from, at, key: key(n), text, data: None, reply_to })
        }
    }
}

#[tokio::test]
async fn both_databases_have_the_same_rows_after_imports_among_live_changes() {
    for seed in 1..=3 {
        let url = new_database().await;
        let work = move || {
            let mut both = BothStores::new(&url);
            let mut random = Rng::with_seed(seed);
            let mut heads = BTreeMap::new();
            for n in (0..6_000).step_by(3) {
                both.now.fetch_add(random.i64(1..20), Ordering::Relaxed);
                let now = both.now.load(Ordering::Relaxed);
                if random.u8(..3) > 0 {
                    let lines = (n..n + random.usize(1..6))
                        .zip(1..)
                        .map(|(n, number)| ImportLine { number, record: random_record(&mut random, n, now) });
                    both.write(&[("key", Change::Import(Arc::new(lines.collect())))]);
                } else {
                    let actor = random_user(&mut random);
                    let change = random_change(&mut random, n, actor, &heads);
                    heads.extend(both.write(&[(actor, change)]));
                }
            }
            both.have_the_same_rows();
            assert_eq!(both.sqlite.check(), [], "the rows are as the log says");
            let events = rows_in_sqlite(&both.sqlite, ROW_QUERIES[3]);
            let imported = events.iter().filter(|row| row[6].starts_with('i')).count();
            assert!(imported > 500, "{imported} imported messages");
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| panic!("seed {seed}"));
    }
}
