//! The numbers of events' kinds within SQL.

use switchboard_protocol::EventKind;

/// The number of a kind of event as a piece of SQL. A partial index on some kinds is used only where a query names them: a
/// parameter does not do.
macro_rules! kind {
    (Message) => {
        "1"
    };
    (Edit) => {
        "2"
    };
    (Delete) => {
        "3"
    };
    (React) => {
        "4"
    };
    (Leave) => {
        "7"
    };
    (Remove) => {
        "9"
    };
}

pub(super) use kind;

/// Whether a piece of SQL is the number of a kind, of one digit.
const fn is_number_of(sql: &str, kind: EventKind) -> bool {
    sql.len() == 1 && sql.as_bytes()[0] == b'0' + kind.number()
}

const _: () = assert!(is_number_of(kind!(Message), EventKind::Message));
const _: () = assert!(is_number_of(kind!(Edit), EventKind::Edit));
const _: () = assert!(is_number_of(kind!(Delete), EventKind::Delete));
const _: () = assert!(is_number_of(kind!(React), EventKind::React));
const _: () = assert!(is_number_of(kind!(Leave), EventKind::Leave));
const _: () = assert!(is_number_of(kind!(Remove), EventKind::Remove));
