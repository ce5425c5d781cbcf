//! Reads every log once, computes from its events what the other rows should be, and compares that with the stored rows.

mod ended;
mod event;
mod members;

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};
use switchboard_protocol::{ConversationId, EventKind, Timestamp};

use self::members::Members;
use super::{EVENTS_PER_REPORT, FIRST_SCHEMA_WITH_BANS, FIRST_SCHEMA_WITH_ENDED_ROOMS, Progress, Report};
use crate::read::Lookups as _;
use crate::record::{NewerKind, Via};
use crate::sqlite::checksum::Columns;

/// The first schema version whose events have checksums.
const FIRST_SCHEMA_WITH_CHECKSUMS: usize = 5;

/// The first schema version whose events name users by key, with a table of kinds.
const FIRST_SCHEMA_WITH_USER_NUMBERS: usize = 6;

/// The first schema version whose events name what made them.
const FIRST_SCHEMA_WITH_MAKERS: usize = 7;

/// The name that a report uses for a conversation whose row cannot be read.
pub(super) fn placeholder_name(number: i64) -> String {
    format!("conversation number {number}")
}

/// Reads and checks every log.
pub(super) fn check(
    db: &Connection,
    report: &mut Report,
    watch: &mut dyn FnMut(Progress),
) -> anyhow::Result<()> {
    let of = db.query_row("SELECT coalesce(sum(head), 0) FROM conversations", [], |row| row.get(0))?;
    watch(Progress::Events { done: 0, of });
    let checksum = if report.schema < FIRST_SCHEMA_WITH_CHECKSUMS { "NULL" } else { "e.checksum" };
    let via = if report.schema < FIRST_SCHEMA_WITH_MAKERS { "0" } else { "e.via" };
    let mut select = db.prepare(&format!(
        "SELECT e.conversation, e.seq, e.kind, e.sender, e.at, e.messages, e.key, e.body, u.name, {checksum}, {via}
         FROM events e LEFT JOIN users u ON u.id = e.sender ORDER BY e.conversation, e.seq",
    ))?;
    let mut rows = select.query([])?;
    let schema = Schema::read_from(db, report.schema)?;
    schema.compare_kinds(report);
    let mut log: Option<Log<'_>> = None;
    while let Some(row) = rows.next()? {
        let conversation: i64 = row.get(0)?;
        if log.as_ref().is_none_or(|log| log.number != conversation) {
            if let Some(log) = log.take() {
                log.check_stored_rows(report)?;
            }
            log = Some(Log::begin(db, conversation, &schema, report)?);
        }
        match &mut log {
            Some(log) if log.is_ended() => log.check_event_of_ended_room(row, report)?,
            Some(log) => log.check_event(row, report)?,
            None => {}
        }
        report.events += 1;
        if report.events.is_multiple_of(EVENTS_PER_REPORT) {
            watch(Progress::Events { done: report.events, of });
        }
    }
    log.map_or(Ok(()), |log| log.check_stored_rows(report)).map_err(Into::into)
}

/// How the check reads a database of a certain version.
struct Schema {
    /// The statement that selects members.
    members: String,
    /// The kinds of events that any version has added to the table of kinds.
    kinds: Vec<NewerKind>,
    /// Whether every event names users by key.
    is_rewritten: bool,
    /// Whether rooms may have been deleted.
    has_ended_rooms: bool,
    /// Whether there is a table of bans.
    has_bans: bool,
}

impl Schema {
    fn read_from(db: &Connection, version: usize) -> anyhow::Result<Self> {
        let members = members::members_statement(db, version)?;
        if version < FIRST_SCHEMA_WITH_USER_NUMBERS {
            let (is_rewritten, has_ended_rooms, has_bans) = (false, false, false);
            return Ok(Self { members, kinds: Vec::new(), is_rewritten, has_ended_rooms, has_bans });
        }
        let kinds = db.kinds().map_err(|_| anyhow::anyhow!("cannot read the table of kinds"))?;
        let is_rewritten = !db.prepare("SELECT 1 FROM rewrite")?.exists([])?;
        let has_ended_rooms = version >= FIRST_SCHEMA_WITH_ENDED_ROOMS;
        let has_bans = version >= FIRST_SCHEMA_WITH_BANS;
        Ok(Self { members, kinds, is_rewritten, has_ended_rooms, has_bans })
    }

    /// Reports rows in the table of kinds that are about this version's kinds and differ from what this version writes.
    fn compare_kinds(&self, report: &mut Report) {
        for (number, name, users) in NewerKind::own_rows() {
            let own = NewerKind::from_row(number.into(), name.to_owned(), &users);
            let entered = self.kinds.iter().find(|kind| kind.number() == i64::from(number));
            if entered.is_some() && entered != own.as_ref() {
                let what =
                    format!("the table of kinds does not have {name} for {number}, or not with its fields");
                report.add_problem(None, None, what);
            }
        }
    }
}

/// The stored row of a conversation.
struct StoredConversation {
    title: Option<String>,
    public: bool,
    head: u64,
    messages: u64,
    last_message: u64,
    members: u64,
    admins: u64,
    at: i64,
    /// Whether the room was deleted.
    ended: bool,
    slow: u64,
    rejoin: bool,
}

/// The state of one conversation, computed from its log up to some event.
struct Log<'a> {
    db: &'a Connection,
    schema: &'a Schema,
    number: i64,
    name: String,
    id: Option<ConversationId>,
    stored_row: Option<StoredConversation>,
    members: Members,
    /// The number of the last event read.
    head: u64,
    messages: u64,
    last_message: u64,
    at: i64,
    title: Option<String>,
    public: bool,
    slow: u64,
    rejoin: bool,
    /// Whether an event is missing or cannot be read. If so, the memberships and other values that result from the log are
    /// uncertain from here on.
    is_uncertain: bool,
    /// Of a deleted room: the kind of the last event, and how many events there are.
    last_kind: EventKind,
    events: u64,
}

/// A stored event, as read from its row.
struct StoredEvent<'a> {
    seq: u64,
    kind: EventKind,
    number: i64,
    sender: i64,
    from: Option<&'a str>,
    at: i64,
    messages: u64,
    key: Option<&'a str>,
    /// The body; `None` if it is not even text.
    body: Option<&'a str>,
    /// The checksum stored with the event; `None` for events of older versions.
    checksum: Option<i32>,
    /// What made the event.
    via: Via,
}

impl<'a> StoredEvent<'a> {
    /// Whether the columns match the checksum. Without a checksum they count as matching.
    fn matches_checksum(&self, conversation: i64) -> bool {
        let Self { seq, number: kind, sender, at, key, .. } = *self;
        let is_same = |body, checksum| {
            Columns { conversation, seq, kind, sender, at, key, body }.checksum() == checksum
        };
        self.body.zip(self.checksum).is_none_or(|(body, checksum)| is_same(body, checksum))
    }

    fn read_from(row: &'a Row<'_>) -> Result<Self> {
        let number = row.get(2)?;
        Ok(Self {
            seq: row.get(1)?,
            kind: EventKind::from_number(number),
            number,
            sender: row.get(3)?,
            from: row.get_ref(8)?.as_str_or_null().unwrap_or_default(),
            at: row.get(4)?,
            messages: row.get(5)?,
            key: row.get_ref(6)?.as_str_or_null().unwrap_or(Some("")),
            body: row.get_ref(7)?.as_str().ok(),
            checksum: row.get(9)?,
            via: Via(row.get(10)?),
        })
    }
}

impl<'a> Log<'a> {
    fn begin(db: &'a Connection, number: i64, schema: &'a Schema, report: &mut Report) -> Result<Self> {
        let ended = if schema.has_ended_rooms { "ended" } else { "0" };
        let settings = if schema.has_bans { "slow, rejoin" } else { "0, 1" };
        let mut select = db.prepare_cached(&format!(
            "SELECT name, title, public, head, messages, last_message, members, admins, at, {ended}, {settings} FROM conversations WHERE id = ?1",
        ))?;
        let found = select.query_row([number], |row| {
            let name = row.get_ref(0)?.as_str().map_or_else(|_| placeholder_name(number), ToOwned::to_owned);
            let kept = StoredConversation {
                title: row.get_ref(1)?.as_str_or_null().unwrap_or_default().map(ToOwned::to_owned),
                public: row.get(2)?,
                head: row.get(3)?,
                messages: row.get(4)?,
                last_message: row.get(5)?,
                members: row.get(6)?,
                admins: row.get(7)?,
                at: row.get(8)?,
                ended: row.get(9)?,
                slow: row.get(10)?,
                rejoin: row.get(11)?,
            };
            Ok((name, kept))
        });
        let (name, kept) = match found.optional()? {
            Some((name, kept)) => (name, Some(kept)),
            None => (placeholder_name(number), None),
        };
        if kept.is_none() {
            report.add_problem(Some(&name), None, "it has events, and no row of its own");
        }
        let id = ConversationId::parse(&name).ok();
        let mut log = Self {
            db,
            schema,
            number,
            name,
            id,
            stored_row: kept,
            members: Members::read(db, &schema.members, number)?,
            head: 0,
            messages: 0,
            last_message: 0,
            at: i64::MIN,
            title: None,
            public: false,
            slow: 0,
            rejoin: true,
            is_uncertain: false,
            last_kind: EventKind::Unreadable,
            events: 0,
        };
        // The members of a direct conversation are in its name, and are members from the beginning.
        if let Some((a, b)) = log.id.as_ref().and_then(ConversationId::peers) {
            for peer in if a == b { vec![a] } else { vec![a, b] } {
                match log.user(peer.as_str())? {
                    Some(user) => log.members.add_first_member(user, 0),
                    None => log.add_problem(report, None, format!("{peer} is no user")),
                }
            }
        }
        Ok(log)
    }

    fn add_problem(&self, report: &mut Report, seq: Option<u64>, what: impl Into<String>) {
        report.add_problem(Some(&self.name), seq, what);
    }

    fn user(&self, name: &str) -> Result<Option<i64>> {
        let mut select = self.db.prepare_cached("SELECT id FROM users WHERE name = ?1")?;
        select.query_row([name], |row| row.get(0)).optional()
    }

    fn name_of(&self, user: i64) -> Result<Option<String>> {
        let mut select = self.db.prepare_cached("SELECT name FROM users WHERE id = ?1")?;
        select.query_row([user], |row| row.get(0)).optional()
    }

    fn check_event(&mut self, row: &Row<'_>, report: &mut Report) -> Result<()> {
        let event = StoredEvent::read_from(row)?;
        self.check_number_and_time(&event, report);
        if !event.matches_checksum(self.number) {
            self.add_problem(report, Some(event.seq), "its checksum is not that of what it says");
        }
        let counts = event.kind == EventKind::Message;
        if counts {
            report.messages += 1;
            self.last_message = event.seq;
            self.members.count_message(event.sender, event.seq);
        }
        let expected = self.messages + u64::from(counts);
        if event.messages != expected {
            let what = format!("it counts {} messages up to here, and there are {expected}", event.messages);
            self.add_problem(report, Some(event.seq), what);
        }
        // The stored count is the base for the events after it, so that one wrong count is reported once.
        self.messages = event.messages;
        let known = event.from.is_some();
        if !known {
            let what = format!("its sender, user number {}, is not there", event.sender);
            self.add_problem(report, Some(event.seq), what);
        }
        if event.kind == EventKind::Unreadable {
            // The event may have changed memberships, so they are unknown from here on.
            self.is_uncertain = true;
            if let Some(kind) = self.schema.kinds.iter().find(|kind| kind.number() == event.number) {
                return self.check_newer_kind(&event, kind, report);
            }
            self.add_problem(report, Some(event.seq), format!("its kind is {}, which is none", event.number));
            return Ok(());
        }
        self.check_body(&event, report)
    }

    /// Checks that the event's number is the next one, and that its time is not before the previous event's.
    fn check_number_and_time(&mut self, event: &StoredEvent<'_>, report: &mut Report) {
        let expected = self.head.saturating_add(1);
        if event.seq > expected {
            self.is_uncertain = true;
            // It is unknown how many of the missing events were messages, so the count restarts from this event's.
            self.messages = event.messages - u64::from(event.kind == EventKind::Message).min(event.messages);
            let missing = match event.seq - expected {
                1 => "it is missing".to_owned(),
                n => format!("it and {} after it are missing", n - 1),
            };
            self.add_problem(report, Some(expected), missing);
        } else if event.seq < expected {
            // The primary key makes numbers unique and the rows are sorted, so only a number below 1 gets here.
            self.add_problem(report, Some(event.seq), "a log begins with 1");
        }
        self.head = event.seq.max(self.head);
        if event.at < self.at {
            let what =
                format!("its time, {}, is before the event's before", Timestamp::from_millis(event.at));
            self.add_problem(report, Some(event.seq), what);
        }
        self.at = self.at.max(event.at);
    }

    /// Called after the last event: compares the stored rows with the computed ones.
    fn check_stored_rows(mut self, report: &mut Report) -> Result<()> {
        if self.is_ended() {
            return self.check_ended_room(report);
        }
        if let Some(kept) = self.stored_row.take() {
            self.compare_conversation(&kept, report);
        }
        let mut members = std::mem::take(&mut self.members);
        if self.schema.has_bans && !self.is_uncertain {
            members.compare_bans(&self, report)?;
        }
        members.compare(&self, report)
    }

    fn compare_conversation(&self, kept: &StoredConversation, report: &mut Report) {
        let name = &self.name;
        let mut differ = |what: &str, kept: u64, is: u64| {
            if kept != is {
                report.add_problem(Some(name), None, format!("{what} {kept}, and is {is}"));
            }
        };
        differ("its head is kept as", kept.head, self.head);
        differ("its number of messages is kept as", kept.messages, self.messages);
        differ("its last message is kept as", kept.last_message, self.last_message);
        if !self.is_uncertain {
            let (members, admins) = self.members.count_present();
            differ("its number of members is kept as", kept.members, members);
            differ("its number of admins is kept as", kept.admins, admins);
        }
        if kept.at != self.at {
            self.add_problem(report, None, "the time of its last event is not the one that is kept");
        }
        if self.is_uncertain {
            return;
        }
        if kept.title != self.title {
            self.add_problem(report, None, "its title is not the one that its log gives it");
        }
        if (kept.slow, kept.rejoin) != (self.slow, self.rejoin) {
            self.add_problem(report, None, "its settings are not those that its log gives it");
        }
        if kept.public != self.public {
            self.add_problem(report, None, "whether it is public is not what its log says");
        }
    }

    fn messages_upto(&self, seq: u64) -> Result<Option<u64>> {
        if seq == 0 {
            return Ok(Some(0));
        }
        let mut select =
            self.db.prepare_cached("SELECT messages FROM events WHERE conversation = ?1 AND seq = ?2")?;
        select.query_row(params![self.number, seq], |row| row.get(0)).optional()
    }
}
