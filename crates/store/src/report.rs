//! Reports: the statements that both stores run, and what a decision is.
//!
//! Reports are few, so their statements run one at a time in the transaction, and are written once for both databases: `$1`, `$2`, …
//! in the order in which they first appear.

use switchboard_protocol::{ConversationId, Report, ReportAction, ReportId, ReportState, Timestamp, UserId};

use crate::grant::UserPattern;
use crate::key::{ConversationKey, UserKey};

/// A field of a row, or a parameter. An absent number is an absent text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Number(i64),
    Text(Option<String>),
}

impl From<i64> for Field {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Option<&str>> for Field {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

/// The fields of a row.
#[derive(Debug, Clone)]
pub(crate) struct Fields(pub(crate) Vec<Field>);

impl Fields {
    /// A number; 0 if there is none.
    pub(crate) fn number(&self, column: usize) -> i64 {
        match self.0.get(column) {
            Some(Field::Number(number)) => *number,
            Some(Field::Text(_)) | None => 0,
        }
    }

    pub(crate) fn text(&self, column: usize) -> Option<&str> {
        match self.0.get(column) {
            Some(Field::Text(text)) => text.as_deref(),
            Some(Field::Number(_)) | None => None,
        }
    }

    /// A time that is absent where the number is 0.
    pub(crate) fn time(&self, column: usize) -> Option<Timestamp> {
        Some(self.number(column)).filter(|at| *at != 0).map(Timestamp::from_millis)
    }
}

/// The report of a target by one reporter.
pub(crate) const SELECT_OWN: &str = r#"SELECT r.id FROM reporters p JOIN reports r ON r.id = p.report
    WHERE p."user" = $1 AND r.conversation = $2 AND r.target = $3 AND r."user" = $4 ORDER BY r.id DESC LIMIT 1"#;

/// The report of a target that is not decided.
pub(crate) const SELECT_UNDECIDED: &str = r#"SELECT id FROM reports WHERE conversation = $1 AND target = $2 AND "user" = $3 AND state < 2
        AND NOT EXISTS (SELECT 1 FROM held h WHERE h.report = id)"#;

/// When a user made the report before as many of their latest ones.
pub(crate) const SELECT_EARLIER: &str =
    r#"SELECT at FROM reporters WHERE "user" = $1 AND at > $2 ORDER BY at DESC LIMIT 1 OFFSET $3"#;

/// The number of the next report. The newest row is never removed, so no number is given twice.
pub(crate) const SELECT_NEXT: &str = "SELECT coalesce(max(id), 0) + 1 FROM reports";

pub(crate) const INSERT_REPORT: &str = r#"INSERT INTO reports (id, conversation, target, "user", at, snapshot)
    VALUES ($1, $2, $3, $4, $5, $6)"#;

pub(crate) const INSERT_REPORTER: &str =
    r#"INSERT INTO reporters (report, "user", at, reason, text) VALUES ($1, $2, $3, $4, $5)"#;

/// A report, and the name of its moderator.
pub(crate) const SELECT_REPORT: &str = r#"SELECT r.conversation, r.target, r."user", r.state, r.moderator, m.name
    FROM reports r LEFT JOIN users m ON m.id = r.moderator WHERE r.id = $1"#;

pub(crate) const CLAIM: &str =
    "UPDATE reports SET state = 1, moderator = $1, claimed = $2 WHERE id = $3 AND state = 0";

pub(crate) const DECIDE: &str =
    "UPDATE reports SET state = 2, moderator = $1, decided = $2, action = $3, note = $4 WHERE id = $5";

/// Removes what was decided before a time. The newest report stays without content, because it has the highest number.
pub(crate) const PURGE: [&str; 4] = [
    "DELETE FROM held WHERE report IN (SELECT id FROM reports WHERE decided > 0 AND decided < $1)",
    "DELETE FROM reporters WHERE report IN (SELECT id FROM reports WHERE decided > 0 AND decided < $1)",
    "DELETE FROM reports WHERE decided > 0 AND decided < $1 AND id < (SELECT max(id) FROM reports)",
    "UPDATE reports SET snapshot = '', note = NULL WHERE decided > 0 AND decided < $1 AND snapshot <> ''",
];

/// A page of reports in a range of states.
pub(crate) const SELECT_PAGE: &str = r#"SELECT r.id, r.state, u.name, c.name, r.target, r.snapshot, r.at, m.name, r.claimed,
        r.decided, r.action, r.note, r.conversation, h.report, p.name
    FROM reports r LEFT JOIN users u ON u.id = r."user" LEFT JOIN conversations c ON c.id = r.conversation
        LEFT JOIN users m ON m.id = r.moderator LEFT JOIN held h ON h.report = r.id LEFT JOIN users p ON p.id = h.peer
    WHERE r.state >= $1 AND r.state <= $2 AND r.id > $3 AND r.snapshot <> '' ORDER BY r.id LIMIT $4"#;

/// The first of those who have made a report.
pub(crate) const SELECT_REPORTERS: &str = r#"SELECT u.name, p.reason, p.text, p.at
    FROM reporters p LEFT JOIN users u ON u.id = p."user" WHERE p.report = $1 ORDER BY p.at, p."user" LIMIT $2"#;

pub(crate) const COUNT_REASONS: &str =
    "SELECT reason, count(*) FROM reporters WHERE report = $1 GROUP BY reason ORDER BY 2 DESC, 1";

/// How many reports wait for a decision, and when the first of them was made. At most as many rows as the parameter are read.
pub(crate) const COUNT_UNDECIDED: &str = "SELECT count(*), min(r.at) FROM (SELECT at FROM reports WHERE state < 2 ORDER BY state, id LIMIT $1) AS r";

/// The reports and held messages that wait for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UndecidedReports {
    /// How many there are, at most [`Self::MOST`].
    pub count: u32,
    /// When the oldest was made.
    pub oldest: Option<Timestamp>,
}

impl UndecidedReports {
    /// How many are counted.
    pub const MOST: u32 = 10_000;
}

/// The stored number of a state.
pub(crate) fn state_number(state: ReportState) -> i64 {
    match state {
        ReportState::Open => 0,
        ReportState::Claimed => 1,
        ReportState::Done => 2,
    }
}

/// The state with this number. What is unknown counts as decided, so that nothing is done about it.
pub(crate) fn state_from_number(number: i64) -> ReportState {
    match number {
        0 => ReportState::Open,
        1 => ReportState::Claimed,
        _ => ReportState::Done,
    }
}

/// What is reported: a message, or a user in no conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReportTarget {
    pub(crate) conversation: ConversationKey,
    pub(crate) seq: i64,
    pub(crate) user: UserKey,
}

/// A change of reports.
#[derive(Debug, Clone)]
pub enum ReportChange {
    /// The actor reports a message or a user.
    Report(Report),
    /// The actor, a moderator, claims or decides a report.
    Resolve(Decision),
    /// Notes in the audit log that a moderator reads a conversation.
    NoteRead(ModeratorRead),
    /// Removes the reports that were decided before this time.
    Purge(Timestamp),
}

/// What a moderator says about a report.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The report.
    pub report: ReportId,
    /// The user who is reported, as the report names them.
    pub user: UserId,
    /// The conversation of the message, as the report names it.
    pub conversation: Option<ConversationId>,
    /// What is done; `None` if the moderator only claims the report.
    pub action: Option<ReportAction>,
    /// When a ban or a silence ends.
    pub until: Option<Timestamp>,
    /// What only moderators read.
    pub note: Option<String>,
    /// What the author reads.
    pub tell: Option<String>,
}

/// A moderator reads a conversation.
#[derive(Debug, Clone)]
pub struct ModeratorRead {
    /// The conversation.
    pub conversation: ConversationId,
    /// The event around which the moderator reads.
    pub around: u64,
    /// Why.
    pub reason: String,
}

/// Which reports to list.
#[derive(Debug, Clone)]
pub struct ListReports {
    /// Only reports in this state; `None` for all.
    pub state: Option<ReportState>,
    /// Only reports of this user and of what they wrote; `None` for all.
    pub user: Option<UserId>,
    /// The list begins after this number.
    pub after: u64,
    /// The most reports.
    pub limit: Option<u32>,
    /// How many of those who made a report are listed.
    pub reporters: usize,
    /// The users whose reports the key sees; `None` for all.
    pub visible: Option<UserPattern>,
}
