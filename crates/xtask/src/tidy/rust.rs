//! Rules for Rust code: time is injected, queues are bounded, SQL is in the store only.

use super::source::{Source, calls_function, is_word, split_into_words};
use super::{Complaint, Tree};

/// The source directories of the shipped program.
const SHIPPED_DIRECTORIES: [&str; 2] = ["crates/server/src/", "crates/store/src/"];
const CLOCK_FILE: &str = "crates/store/src/clock.rs";

/// The directories in which SQL is allowed: the store, and the code that measures or tests it.
const SQL_DIRECTORIES: [&str; 5] = [
    "crates/store/src/",
    "crates/bench/src/floor/",
    "crates/bench/src/database.rs",
    "crates/engines/",
    "crates/faults/tests/",
];
/// Tests that may use SQL, because they corrupt a database or read its rows.
const SQL_TESTS: (&str, [&str; 7]) = (
    "crates/server/tests/",
    [
        "/corrupt.rs",
        "/foreign.rs",
        "/moving.rs",
        "/rows.rs",
        "/soak/cursors.rs",
        "/upgrade.rs",
        "/versions.rs",
    ],
);

const SQL_VERBS: &[&str] =
    &["SELECT", "INSERT", "UPDATE", "DELETE", "PRAGMA", "CREATE", "ALTER", "DROP", "WITH", "REPLACE"];

/// The server must not read a clock that a test cannot pause or set.
pub(super) fn time_is_injected(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree
        .with_extension(&["rs"])
        .filter(|(path, _)| SHIPPED_DIRECTORIES.iter().any(|dir| path.starts_with(dir)))
    {
        let source = Source::parse(text);
        for (line, names) in words_after(&source.code, "std::time::") {
            if split_into_words(names).any(|name| name == "Instant") {
                complaints.push(Complaint::at_line(
                    path,
                    line,
                    "use tokio::time::Instant, which tests can pause",
                ));
            }
        }
        for (line, code) in source.lines().filter(|_| path != CLOCK_FILE) {
            let reads_clock = split_into_words(code).any(|word| word == "SystemTime")
                || calls_function(code, "Timestamp::now")
                || calls_function(code, "Zoned::now");
            if reads_clock {
                complaints.push(Complaint::at_line(
                    path,
                    line,
                    "use the Clock of clock.rs, which tests can set",
                ));
            }
        }
    }
    complaints
}

/// The names that follow `prefix` in the code, alone or in braces, each with its line.
fn words_after<'a>(code: &'a str, prefix: &str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(prefix).map(|(at, found)| {
        let names = &code[at + found.len()..];
        let end = if names.starts_with('{') { names.find('}') } else { names.find(|c| !is_word(c)) };
        let line = code[..at].matches('\n').count() + 1;
        (line, &names[..end.unwrap_or(names.len())])
    })
}

/// No queue may be unbounded, because it would hide a slow consumer until memory runs out.
pub(super) fn queues_are_bounded(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]) {
        for (line, code) in Source::parse(text).lines() {
            let unbounded = split_into_words(code).any(|word| word == "unbounded_channel")
                || calls_function(code, "unbounded")
                || code.contains("mpsc::channel()");
            if unbounded {
                let message = "use a channel with a bound, and say what happens when it is full";
                complaints.push(Complaint::at_line(path, line, message));
            }
        }
    }
    complaints
}

/// SQL stays in the store, because only the store knows the tables.
pub(super) fn sql_stays_in_the_store(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]).filter(|(path, _)| !may_have_sql(path)) {
        for literal in Source::parse(text).strings.iter().filter(|literal| is_sql(&literal.text)) {
            let message = format!("use a method of the store; SQL belongs in {}", SQL_DIRECTORIES[0]);
            complaints.push(Complaint::at_line(path, literal.line, message));
        }
    }
    complaints
}

fn may_have_sql(path: &str) -> bool {
    let (tests, names) = SQL_TESTS;
    let is_test = path.starts_with(tests) && names.iter().any(|name| path.ends_with(name));
    is_test || SQL_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// Whether a literal looks like a statement: an upper-case verb followed by another word.
fn is_sql(text: &str) -> bool {
    let mut words = text.split_whitespace();
    words.next().is_some_and(|first| SQL_VERBS.contains(&first)) && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    #[test]
    fn a_system_clock_in_the_server_is_reported() {
        for (code, expected) in [
            ("let now = std::time::Instant::now();", "tokio::time::Instant"),
            ("use std::time::{\n    Duration, Instant,\n};", "tokio::time::Instant"),
            ("use std::time::SystemTime;", "clock.rs"),
            ("let now = jiff::Timestamp::now();", "clock.rs"),
        ] {
            let complaints = run_rule(time_is_injected, &[("crates/server/src/a.rs", code)]);
            assert!(complaints.len() == 1 && complaints[0].contains(expected), "{code}: {complaints:?}");
            assert!(complaints[0].starts_with("crates/server/src/a.rs:1: use "), "{complaints:?}");
        }
        for (path, code) in [
            ("crates/server/src/a.rs", "use std::time::Duration; use tokio::time::Instant; // SystemTime"),
            ("crates/store/src/clock.rs", "jiff::Timestamp::now()"),
            ("crates/bench/src/a.rs", "use std::time::Instant;"),
        ] {
            assert!(run_rule(time_is_injected, &[(path, code)]).is_empty(), "{code}");
        }
    }

    #[test]
    fn an_unbounded_queue_is_reported() {
        for code in ["let (a, b) = mpsc::unbounded_channel();", "crossbeam::unbounded()", "mpsc::channel()"] {
            assert_eq!(run_rule(queues_are_bounded, &[("a.rs", code)]).len(), 1, "{code}");
        }
        for code in ["mpsc::channel(LIMIT)", "// no unbounded_channel()", "is_unbounded()"] {
            assert!(run_rule(queues_are_bounded, &[("a.rs", code)]).is_empty(), "{code}");
        }
    }

    #[test]
    fn sql_outside_the_store_is_reported() {
        let code = "fn f() {\n    db.execute(\"\n  DELETE FROM events\");\n}";
        let complaints = run_rule(sql_stays_in_the_store, &[("crates/server/src/router.rs", code)]);
        assert_eq!(
            complaints,
            ["crates/server/src/router.rs:2: use a method of the store; SQL belongs in crates/store/src/"]
        );
        for path in [
            "crates/store/src/sqlite.rs",
            "crates/store/src/migrations/sqlite.rs",
            "crates/server/tests/it/corrupt.rs",
        ] {
            assert!(run_rule(sql_stays_in_the_store, &[(path, code)]).is_empty(), "{path}");
        }
        let prose = r#"method == "DELETE" || text == "Select a room" // "SELECT 1""#;
        assert!(run_rule(sql_stays_in_the_store, &[("crates/server/src/http.rs", prose)]).is_empty());
    }
}
