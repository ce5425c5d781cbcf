//! What an import asks for: events of another system, with the times and the authors that they had there.

use switchboard_protocol::{
    ConversationId, Data, Emoji, Key, Limits, Target, Text, Timestamp, Title, UserId,
};

use super::{check_content, check_count, check_title};
use crate::refusal::Refusal;

/// A line of an import.
#[derive(Debug, Clone)]
pub struct ImportLine {
    /// The line's number in the request, from 1 on. A refusal names it.
    pub number: u32,
    /// What the line says.
    pub record: ImportRecord,
}

/// What a line of an import says.
#[derive(Debug, Clone)]
pub enum ImportRecord {
    /// A room was created.
    Create(ImportedRoom),
    /// A message was sent.
    Message(ImportedMessage),
    /// A user reacted to a message.
    Reaction(ImportedReaction),
    /// A user has read up to a message, and not further.
    Read(ImportedRead),
}

/// A room of another system.
#[derive(Debug, Clone)]
pub struct ImportedRoom {
    /// The room.
    pub room: ConversationId,
    /// When it was created.
    pub at: Timestamp,
    /// The creator, who becomes its admin.
    pub from: UserId,
    /// Its title.
    pub title: Option<Title>,
    /// Whether any user may join.
    pub public: bool,
    /// Its first members besides the creator.
    pub members: Vec<UserId>,
}

/// A message of another system.
#[derive(Debug, Clone)]
pub struct ImportedMessage {
    /// The conversation.
    pub to: Target,
    /// The author, who becomes a member of the room where they are none.
    pub from: UserId,
    /// When it was sent.
    pub at: Timestamp,
    /// Its key: a message is stored once for each author and key.
    pub key: Key,
    /// The text for people.
    pub text: Option<Text>,
    /// The data for the application.
    pub data: Option<Data>,
    /// The message that it answers.
    pub reply_to: Option<MessageReference>,
}

/// A reaction of another system.
#[derive(Debug, Clone)]
pub struct ImportedReaction {
    /// The conversation.
    pub to: Target,
    /// The user who reacted.
    pub from: UserId,
    /// When.
    pub at: Timestamp,
    /// The reaction.
    pub react: Emoji,
    /// The message.
    pub target: MessageReference,
}

/// How far a user has read in another system.
#[derive(Debug, Clone)]
pub struct ImportedRead {
    /// The conversation.
    pub read: Target,
    /// The user.
    pub from: UserId,
    /// The last message that the user has read.
    pub upto: MessageReference,
}

/// An imported message, whose number nobody knows before it is stored.
#[derive(Debug, Clone)]
pub struct MessageReference {
    /// Its author.
    pub from: UserId,
    /// Its key.
    pub key: Key,
}

impl ImportRecord {
    /// The user in whose name the line is stored.
    pub fn from(&self) -> &UserId {
        match self {
            Self::Create(line) => &line.from,
            Self::Message(line) => &line.from,
            Self::Reaction(line) => &line.from,
            Self::Read(line) => &line.from,
        }
    }

    /// The conversation that the line is about.
    pub fn conversation(&self) -> ConversationId {
        match self {
            Self::Create(line) => line.room.clone(),
            Self::Message(line) => line.to.resolve(&line.from),
            Self::Reaction(line) => line.to.resolve(&line.from),
            Self::Read(line) => line.read.resolve(&line.from),
        }
    }

    /// The message that the line refers to, if it refers to one.
    pub(crate) fn target(&self) -> Option<&MessageReference> {
        match self {
            Self::Create(_) => None,
            Self::Message(line) => line.reply_to.as_ref(),
            Self::Reaction(line) => Some(&line.target),
            Self::Read(line) => Some(&line.upto),
        }
    }

    /// Checks what the types of a line do not check.
    ///
    /// # Errors
    /// The content exceeds a limit, or is missing.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        match self {
            Self::Create(line) if !line.room.is_room() => {
                Err(Refusal::bad_field("create", "create: the id of a room, such as `#visit-9`"))
            }
            Self::Create(line) => {
                check_title(line.title.as_ref())?;
                check_count("members", line.members.len(), limits.create_members)
            }
            Self::Message(line) => check_content(line.text.as_ref(), line.data.as_ref(), limits),
            Self::Reaction(line) if switchboard_protocol::is_blank(line.react.as_str()) => {
                Err(Refusal::bad_field("react", "react: a reaction shows something"))
            }
            Self::Reaction(_) | Self::Read(_) => Ok(()),
        }
    }
}
