//! The first contents of a `dev` server's database: two users, and a room with a few messages.

use switchboard_protocol::{ConversationId, Create, Data, Key, RoomId, Send, Target, Text, Title, UserId};

use crate::config::Config;
use switchboard_store::clock::Clock;
use switchboard_store::sqlite::{Settings, fill_if_new};
use switchboard_store::{Change, CommitMetrics};

/// Adds alice, bob and #general to a new database. A database that is already in use is not changed.
pub(crate) fn create_example_conversation(config: &Config) -> anyhow::Result<()> {
    let settings = Settings {
        data: config.data.clone(),
        limits: config.limits.clone(),
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
    };
    let (alice, bob) = (UserId::parse("alice")?, UserId::parse("bob")?);
    let general = RoomId::parse("general")?;
    let create = Create {
        room: Some(general.clone()),
        title: Some(Title::parse("General").map_err(anyhow::Error::msg)?),
        public: true,
        members: vec![bob.clone()],
    };
    let mut changes = vec![(alice.clone(), Change::Create(create))];
    let lines = [
        (&alice, "Hi Bob! Every message here is on the disk before I see that it was sent."),
        (&bob, "And when I was away I get what I missed, in the same order as you."),
        (&alice, "Open the other link in a second tab and write something."),
    ];
    for (n, (author, text)) in lines.into_iter().enumerate() {
        let to = Target::from(ConversationId::room(&general));
        changes.push((author.clone(), Change::Send(send(to, text, &format!("welcome-{n}"))?)));
    }
    fill_if_new(&settings, changes)?;
    Ok(())
}

fn send(to: Target, text: &str, key: &str) -> anyhow::Result<Send> {
    Ok(Send {
        to,
        text: Some(Text::parse(text).map_err(anyhow::Error::msg)?),
        data: None::<Data>,
        key: Some(Key::parse(key).map_err(anyhow::Error::msg)?),
        reply_to: None,
    })
}
