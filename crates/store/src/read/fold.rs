//! The current state of messages: each event combined with its last edit, its deletion and its reactions.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use switchboard_protocol::reply::{Message, MessageTag, Person, Summary, Unread};
use switchboard_protocol::{Data, EventKind, Key, Limits, Seq, Text, Timestamp, Title, UserId};

use super::row::{ListedConversation, StoredMessage, WantedMessage, unknown_user};
use super::{LookupResult, Lookups, Reader};
use crate::block::{BlockList, View};
use crate::record::Conversation;

/// The content of a message or an edit, as the store keeps it.
#[derive(Debug, Default, Deserialize)]
struct MessageContent {
    text: Option<Text>,
    data: Option<Data>,
    reply_to: Option<Seq>,
    #[serde(default)]
    deleted: bool,
}

impl MessageContent {
    /// A body that cannot be read is shown as an empty message, and reported.
    fn read(body: &str, conversation: &Conversation, at: Seq) -> Self {
        serde_json::from_str(body).unwrap_or_else(|error| {
            // The error itself is not logged, because it may quote a user's message.
            let error = error.classify();
            tracing::error!(conversation = %conversation.name, seq = %at, ?error, "a message cannot be read");
            Self::default()
        })
    }
}

impl<L: Lookups> Reader<'_, L> {
    /// Messages as a member sees them, in the order requested, each with its size in bytes on a page; `None` for a message
    /// that does not exist. Reactions of `blocked` users are left out.
    pub(super) fn messages(
        &self,
        wanted: &[WantedMessage<'_>],
        blocked: &BlockList,
        mut each: impl FnMut(Option<(Message, usize)>) -> ControlFlow<()>,
    ) -> LookupResult<(), L> {
        let mut place = wanted.iter();
        self.rows.messages(wanted, self.limits.page_bytes as usize, |whole| {
            let Some(wanted) = place.next() else { return ControlFlow::Break(()) };
            each(whole.map(|whole| {
                let message = fold(wanted, whole, blocked);
                let bytes = json_bytes(&message);
                (message, bytes)
            }))
        })
    }
}

/// The message with its last edit, its deletion and its reactions applied.
fn fold(wanted: &WantedMessage<'_>, whole: StoredMessage, blocked: &BlockList) -> Message {
    let WantedMessage { conversation, target, .. } = *wanted;
    let mut content = MessageContent::read(&whole.body, conversation, target);
    let edited = whole.edit.filter(|_| !content.deleted).map(|(edited, body)| {
        let edit = MessageContent::read(&body, conversation, edited.seq);
        content =
            MessageContent { text: edit.text, data: edit.data, reply_to: content.reply_to, deleted: false };
        edited
    });
    let mut reactions = BTreeMap::<String, Vec<UserId>>::new();
    for (emoji, user) in whole.reactions {
        if blocked.view(EventKind::React.as_str(), &user) == View::Withheld {
            continue;
        }
        reactions.entry(emoji).or_default().push(user);
    }
    Message {
        kind: MessageTag::Message,
        conversation: conversation.name.clone(),
        seq: target,
        from: whole.from.unwrap_or_else(unknown_user),
        at: whole.at,
        key: whole.key.and_then(|key| Key::parse(key).ok()),
        text: content.text,
        data: content.data,
        reply_to: content.reply_to,
        edited,
        deleted: content.deleted,
        reactions,
    }
}

/// How many bytes an item takes on a page: its JSON and the comma after it.
pub(super) fn json_bytes(item: &impl Serialize) -> usize {
    let mut written = ByteCounter(1);
    // Every answer of the server has a JSON form, and writing to a counter cannot fail.
    let _ = serde_json::to_writer(&mut written, item);
    written.0
}

/// A writer that only counts the bytes written to it.
struct ByteCounter(usize);

impl Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The most bytes that a summary can take without its last message. Its numbers are counted at their greatest length.
pub(super) fn most_bytes_of_summary(conversation: &Conversation) -> usize {
    Limits::EVENT_OVERHEAD_BYTES + conversation.name.as_str().len() + json_bytes(&conversation.title)
}

/// The unread messages of a member in these conversations, without those `blocked`; `more` says whether the user has other
/// conversations.
pub(super) fn unread(listed: &[ListedConversation], blocked: &[u64], more: bool) -> Unread {
    let mut unread = Unread { more, ..Unread::default() };
    for (ListedConversation { conversation, member }, blocked) in listed.iter().zip(blocked) {
        let messages = member.unread(conversation.messages).saturating_sub(*blocked);
        unread.messages += messages;
        unread.conversations += u64::from(messages > 0);
    }
    unread
}

/// A conversation as its member sees it now; `blocked` unread messages do not count.
pub(super) fn summary(
    listed: ListedConversation,
    (blocked, now): (u64, Timestamp),
    with: Option<Person>,
    last: Option<Message>,
) -> Summary {
    let ListedConversation { conversation, member } = listed;
    let (slow, rejoin) = conversation.shown_settings();
    Summary {
        title: conversation.title.and_then(|title| Title::parse(title).ok()),
        public: conversation.public,
        slow,
        rejoin,
        role: member.role_at(now),
        until: member.silenced_until(now),
        members: conversation.members,
        head: conversation.head,
        at: Timestamp::from_millis(conversation.at),
        read: member.read,
        received: member.received,
        unread: member.unread(conversation.messages).saturating_sub(blocked),
        with,
        last,
        conversation: conversation.name,
    }
}
