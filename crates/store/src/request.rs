//! Classifies a command as a write, a page or a signal, and checks the sizes that its types do not bound. A new command is
//! a line in each `match`.

mod import;

use std::sync::Arc;

pub use self::import::{
    ImportLine, ImportRecord, ImportedMessage, ImportedReaction, ImportedRead, ImportedRoom, MessageReference,
};

use switchboard_protocol::{
    Blocks, ChangeSettings, Command, ConversationId, Conversations, Create, Data, Delete, Edit, History,
    Invite, Join, Leave, Limits, Members, React, Read, Received, Remove, Rename, Report, Send, Seq, SetBlock,
    SetProfile, SetRole, Sync, Target, Text, Timestamp, Title, UserId, is_blank,
};

use crate::ban::NewBan;
use crate::key::Via;
use crate::profile::{PeopleQuery, ProfileChange, TokenProfile};
use crate::refusal::Refusal;
use crate::report::ReportChange;

/// One of the two cursors of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the commands document themselves")]
pub enum CursorKind {
    Read,
    Received,
}

/// A `read` command with the counts that readers made for it.
#[derive(Debug, Clone)]
pub struct CountedRead {
    /// The command.
    pub read: Read,
    /// The counts up to the command's cursor, or why they could not be made.
    pub counts: Result<MessageCounts, Refusal>,
}

/// The message counts up to an event of a log. They never change, because events are only appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages of all senders.
    pub messages: u64,
    /// Messages sent by the member whose cursor is counted.
    pub sent: u64,
}

/// The commands that write, and the writes that the server makes without a command.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the commands document themselves")]
pub enum Change {
    Send(Send),
    Edit(Edit),
    Delete(Delete),
    React(React),
    Read(Read),
    Received(Received),
    Create(Create),
    Join(Join),
    Leave(Leave),
    Invite(Invite),
    /// An `invite` by a back end, which may also add the first member to a room that all members have left.
    InviteWithKey(Invite),
    Remove(Remove),
    SetRole(SetRole),
    Rename(Rename),
    ChangeSettings(ChangeSettings),
    /// A back end deletes a room, in the name of the actor.
    DeleteRoom(ConversationId),
    SetProfile(Box<SetProfile>),
    SetBlock(SetBlock),
    /// A back end changes the profiles of several users.
    SetProfiles(Vec<ProfileChange>),
    /// A back end imports the history of another system. It is a transaction of its own: all of its lines are stored, or none.
    Import(Arc<Vec<ImportLine>>),
    /// The actor's profile becomes what their token says.
    ReadToken(Box<TokenProfile>),
    /// A `read` that is queued for the writer again, with the counts that readers made for it.
    CountedRead(Box<CountedRead>),
    /// The actor connected for the first time.
    RegisterUser,
    /// The actor came online or went offline.
    SetPresence(PresenceChange),
    /// Revokes the actor's tokens that were issued at this time or before.
    Revoke {
        /// Tokens issued at this time or before are revoked.
        until: Timestamp,
        /// Whether this time replaces a later one that is stored. Otherwise the later one stays.
        replace: bool,
    },
    /// A change of reports.
    Reports(Box<ReportChange>),
    /// Bans the actor from the installation; `None` ends the actor's ban.
    Ban(Option<Box<NewBan>>),
    /// A back end used its key in the hour of this time.
    UseKey(Via, Timestamp),
    /// Removes entries of the feed that are older than this. Each time a part of them.
    TrimFeed(Timestamp),
    /// Gives numbers in the feed to what other processes have committed. It changes nothing else.
    NumberPending,
    /// Checks a change as if it were made now, and changes nothing. Succeeds without an event if the change would store one.
    Check(Box<Change>),
    /// A change that the application has allowed, perhaps with other content.
    Approved(Box<Approved>),
    /// A message that the application or a filter holds, so that a moderator decides. Like [`Self::Approved`], it comes after a
    /// [`Self::Check`].
    Hold(Box<Hold>),
    /// A change that a [`Self::Check`] has found to repeat an earlier one. It is answered like the earlier one, and is
    /// `unavailable` if it would store something by now, because the application has not allowed that.
    Repeated(Box<Change>),
    /// A change whose content is refused for good, if it would store something. One that repeats an earlier one is answered like that
    /// one.
    Filtered(Box<Filtered>),
    /// A probe: changes nothing, but is written like every other change.
    Probe,
    /// A numbered write that was refused for good before it was submitted. It changes nothing. The writer answers it in the
    /// order of its connection's writes, so that the writes after it are not held up.
    Refused(Refusal),
}

/// How a user's presence changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceChange {
    /// The user came online, and the configuration says that the feed has it.
    Online,
    /// The user's last device disconnected from this node at this time.
    LastSeen(Timestamp),
    /// The user went offline: no device is connected to any node, and the last one disconnected at this time.
    Offline(Timestamp),
    /// The server, which is the only one, stops while the user is connected. The next one adds the entry of the feed if the user
    /// does not come back.
    ConnectedAtStop(Timestamp),
}

/// A change that the application has allowed.
#[derive(Debug, Clone)]
pub struct Approved {
    /// The change to make.
    pub change: Change,
    /// The change that the client requested, if the application has replaced its content.
    pub requested: Option<Change>,
}

/// A message that is not stored in the log before a moderator has decided.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The message.
    pub send: Send,
    /// What the client requested, if the application has replaced its content.
    pub requested: Option<Send>,
}

/// A change whose content is refused.
#[derive(Debug, Clone)]
pub struct Filtered {
    /// The change.
    pub change: Change,
    /// The refusal, unless the change is refused for another reason.
    pub refusal: Refusal,
}

impl Change {
    /// Whether the change counts against the connection's rate of sends. Cursor commands do not, because their number
    /// depends on the messages of other users.
    pub fn is_limited(&self) -> bool {
        self.cursor().is_none()
    }

    /// Whether the change is made in the name of a user, and not of the server or a back end.
    pub(crate) fn is_by_a_user(&self) -> bool {
        if let Self::Reports(change) = self {
            return matches!(**change, ReportChange::Report(_) | ReportChange::Resolve(_));
        }
        !matches!(
            self,
            Self::SetProfiles(_)
                | Self::UseKey(..)
                | Self::TrimFeed(_)
                | Self::NumberPending
                | Self::Probe
                | Self::Refused(_)
        )
    }

    /// Whether a banned user may not make the change. Others note what happens to a user.
    pub(crate) fn is_refused_to_banned_users(&self) -> bool {
        self.is_by_a_user()
            && !matches!(
                self,
                Self::Ban(_)
                    | Self::Revoke { .. }
                    | Self::SetPresence(_)
                    | Self::Import(_)
                    | Self::RegisterUser
                    | Self::DeleteRoom(_)
            )
    }

    /// Whether a user under a shadow ban may not make the change, because others would see it. Messages are held instead.
    pub(crate) fn is_refused_under_shadow_ban(&self) -> bool {
        matches!(
            self,
            Self::Edit(_)
                | Self::React(_)
                | Self::Create(_)
                | Self::Invite(_)
                | Self::InviteWithKey(_)
                | Self::Rename(_)
                | Self::ChangeSettings(_)
                | Self::SetProfile(_)
        )
    }

    /// The change's price in sends: one, and one more for each member or further profile that it names.
    pub fn cost(&self) -> u32 {
        let members = match self {
            Self::Create(create) => create.members.len(),
            Self::Invite(_) | Self::InviteWithKey(_) => 1,
            Self::SetProfiles(changes) => changes.len().saturating_sub(1),
            _ => 0,
        };
        u32::try_from(members).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// For a cursor command: which cursor it moves, in which conversation, and to which event.
    pub fn cursor(&self) -> Option<(CursorKind, &Target, Seq)> {
        match self {
            Self::Read(c) => Some((CursorKind::Read, &c.conversation, c.upto)),
            Self::CountedRead(c) => Some((CursorKind::Read, &c.read.conversation, c.read.upto)),
            Self::Received(c) => Some((CursorKind::Received, &c.conversation, c.upto)),
            _ => None,
        }
    }
}

/// The commands that read a page from the store.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the commands document themselves")]
pub enum Query {
    Sync(Sync),
    History(History),
    Conversations(Conversations),
    Members(Members),
    Blocks(Blocks),
}

/// The part of the server that handles a command.
#[derive(Debug)]
pub enum Request {
    /// A write to the store.
    Change(Change),
    /// A page to read from the store.
    Query(Query),
    /// A typing signal to send through the router.
    Typing(Target),
    /// Profiles to read from the store.
    People(PeopleQuery),
    /// A request for the presence of users, which the router answers.
    Watch(Vec<UserId>),
    /// A ping, which needs only an answer.
    Ping,
    /// A newer token for the connection.
    Token(String),
    /// A second `hello`, which is refused.
    Hello,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        match command {
            Command::Hello(_) => Self::Hello,
            Command::RenewToken(c) => Self::Token(c.token),
            Command::Send(c) => Self::Change(Change::Send(c)),
            Command::Edit(c) => Self::Change(Change::Edit(c)),
            Command::Delete(c) => Self::Change(Change::Delete(c)),
            Command::React(c) => Self::Change(Change::React(c)),
            Command::Sync(c) => Self::Query(Query::Sync(c)),
            Command::History(c) => Self::Query(Query::History(c)),
            Command::Conversations(c) => Self::Query(Query::Conversations(c)),
            Command::Read(c) => Self::Change(Change::Read(c)),
            Command::Received(c) => Self::Change(Change::Received(c)),
            Command::Typing(c) => Self::Typing(c.conversation),
            Command::Watch(c) => Self::Watch(c.users),
            Command::Create(c) => Self::Change(Change::Create(c)),
            Command::Join(c) => Self::Change(Change::Join(c)),
            Command::Leave(c) => Self::Change(Change::Leave(c)),
            Command::Invite(c) => Self::Change(Change::Invite(c)),
            Command::Remove(c) => Self::Change(Change::Remove(c)),
            Command::SetRole(c) => Self::Change(Change::SetRole(c)),
            Command::Rename(c) => Self::Change(Change::Rename(c)),
            Command::ChangeSettings(c) => Self::Change(Change::ChangeSettings(c)),
            Command::Members(c) => Self::Query(Query::Members(c)),
            Command::Report(c) => Self::Change(Change::Reports(Box::new(ReportChange::Report(c)))),
            Command::SetProfile(c) => Self::Change(Change::SetProfile(Box::new(c))),
            Command::Users(c) => Self::People(PeopleQuery::Users(c.users)),
            Command::FindUsers(c) => Self::People(PeopleQuery::Find { query: c.query, limit: c.limit }),
            Command::SetBlock(c) => Self::Change(Change::SetBlock(c)),
            Command::Blocks(c) => Self::Query(Query::Blocks(c)),
            Command::Ping(_) => Self::Ping,
        }
    }
}

/// Checks the content of a command that its types do not check.
///
/// # Errors
/// The content exceeds a limit, or is missing. The refusal names the field and the limit.
pub fn check(command: &Command, limits: &Limits) -> Result<(), Refusal> {
    match command {
        Command::Send(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Edit(c) => check_content(c.text.as_ref(), c.data.as_ref(), limits),
        Command::Watch(c) => check_count("users", c.users.len(), limits.watch),
        Command::Create(c) => {
            check_title(c.title.as_ref())?;
            check_count("members", c.members.len(), limits.create_members)
        }
        Command::SetProfile(c) => check_profile(c),
        Command::Report(c) => check_report(c),
        Command::Users(c) => check_count("users", c.users.len(), limits.follow),
        Command::FindUsers(c) => check_search(&c.query),
        Command::Rename(c) => check_title(Some(&c.title)),
        Command::ChangeSettings(c) => check_settings(c),
        Command::React(c) if is_blank(c.emoji.as_str()) => {
            Err(Refusal::bad_field("emoji", "emoji: a reaction shows something"))
        }
        // The types of these commands bound their content completely. A new command is named in one of these lines.
        Command::Hello(_)
        | Command::RenewToken(_)
        | Command::Delete(_)
        | Command::React(_)
        | Command::Sync(_)
        | Command::History(_)
        | Command::Conversations(_)
        | Command::Read(_)
        | Command::Received(_)
        | Command::Typing(_)
        | Command::Join(_)
        | Command::Leave(_)
        | Command::Invite(_)
        | Command::Remove(_)
        | Command::SetRole(_)
        | Command::Members(_)
        | Command::SetBlock(_)
        | Command::Blocks(_)
        | Command::Ping(_) => Ok(()),
    }
}

fn check_settings(settings: &ChangeSettings) -> Result<(), Refusal> {
    let ChangeSettings { slow, rejoin, .. } = settings;
    if slow.is_none() && rejoin.is_none() {
        return Err(Refusal::bad_field("slow", "slow: name what changes, `slow` or `rejoin`"));
    }
    if slow.is_some_and(|slow| slow > Limits::MAX_SLOW_MS) {
        let message = format!("slow: at most {} milliseconds", Limits::MAX_SLOW_MS);
        return Err(Refusal::bad_field("slow", message));
    }
    Ok(())
}

fn check_content(text: Option<&Text>, data: Option<&Data>, limits: &Limits) -> Result<(), Refusal> {
    if data.is_none() && text.is_none_or(|text| text.as_str().is_empty()) {
        return Err(Refusal::bad_field(
            "text",
            "text: a message has a `text` that is not empty, or `data`, or both",
        ));
    }
    if text.is_some_and(|text| !text.as_str().is_empty() && is_blank(text.as_str())) {
        return Err(Refusal::bad_field("text", "text: it has white space and invisible characters only"));
    }
    let most = limits.text as usize;
    if text.is_some_and(|text| text.as_str().len() > most) {
        return Err(Refusal::too_large(
            "text",
            format!("text: at most {most} bytes; send the rest as another message"),
        ));
    }
    if data.is_some_and(|data| serde_json::to_string(data).is_ok_and(|json| json.len() > most)) {
        return Err(Refusal::too_large(
            "data",
            format!("data: at most {most} bytes of JSON; store the rest elsewhere"),
        ));
    }
    Ok(())
}

/// Checks the fields of a profile that their types do not check.
///
/// # Errors
/// `data` exceeds its limit.
pub fn check_profile(fields: &SetProfile) -> Result<(), Refusal> {
    let data = fields.data.as_ref().and_then(Option::as_ref);
    if data.is_some_and(|data| {
        serde_json::to_string(data).is_ok_and(|json| json.len() > Limits::MAX_PROFILE_DATA_BYTES)
    }) {
        let message = format!(
            "data: at most {} bytes of JSON; store the rest elsewhere",
            Limits::MAX_PROFILE_DATA_BYTES
        );
        return Err(Refusal::too_large("data", message));
    }
    Ok(())
}

fn check_report(report: &Report) -> Result<(), Refusal> {
    match (&report.conversation, report.target, &report.user) {
        (Some(_), Some(_), None) | (None, None, Some(_)) => {}
        (Some(_), None, None) => return Err(Refusal::bad_field("target", "target: name the message")),
        (None, ..) => return Err(Refusal::bad_field("conversation", "conversation: name it, or a `user`")),
        (Some(_), _, Some(_)) => {
            return Err(Refusal::bad_field("user", "user: name a message or a user, not both"));
        }
    }
    check_words("text", report.text.as_deref(), Limits::MAX_REPORT_TEXT_BYTES)
}

/// Checks a text of a moderator, or for one.
///
/// # Errors
/// It is too long, blank, or has control characters.
pub fn check_words(field: &'static str, text: Option<&str>, most: usize) -> Result<(), Refusal> {
    let Some(text) = text else { return Ok(()) };
    if text.len() > most {
        return Err(Refusal::too_large(field, format!("{field}: at most {most} bytes")));
    }
    if text.trim().is_empty() || text.chars().any(|c| c.is_control() && c != '\n') {
        let message = format!("{field}: words, without control characters; leave it out if there is none");
        return Err(Refusal::bad_field(field, message));
    }
    Ok(())
}

fn check_search(query: &str) -> Result<(), Refusal> {
    if !(Limits::MIN_FIND_QUERY_BYTES..=Limits::MAX_FIND_QUERY_BYTES).contains(&query.trim().len())
        || query.contains('\0')
    {
        let message = format!(
            "query: {} to {} bytes of a name or an id",
            Limits::MIN_FIND_QUERY_BYTES,
            Limits::MAX_FIND_QUERY_BYTES
        );
        return Err(Refusal::bad_field("query", message));
    }
    Ok(())
}

fn check_title(title: Option<&Title>) -> Result<(), Refusal> {
    if title.is_some_and(|title| is_blank(title.as_str())) {
        return Err(Refusal::bad_field("title", "title: it has white space and invisible characters only"));
    }
    Ok(())
}

fn check_count(field: &'static str, count: usize, most: u32) -> Result<(), Refusal> {
    if count > most as usize {
        return Err(Refusal::too_large(field, format!("{field}: at most {most} at a time")));
    }
    Ok(())
}
