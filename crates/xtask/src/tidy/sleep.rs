//! A test waits for the event itself: a sleep makes it slow when too long and flaky when too short. Where no event
//! exists, a comment says what the time is for.

use super::source::{Source, calls_function};
use super::{Complaint, Tree};

const SLEEP_REASON_MARK: &str = "// waits for:";

pub(super) fn no_sleep_in_a_test_without_a_reason(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]).filter(|(path, _)| is_rust_test(path)) {
        let source = Source::parse(text);
        let sleeping = source.lines().filter(|(_, code)| calls_function(code, "sleep")).map(|(line, _)| line);
        complaints.extend(complaints_without_reason(path, text, sleeping));
    }
    for (path, text) in tree.with_extension(&["js", "ts"]).filter(|(path, _)| path.starts_with("e2e/")) {
        let sleeps = |line: &str| {
            ["sleep", "setTimeout", "waitForTimeout"].iter().any(|name| calls_function(line, name))
        };
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let sleeping = lines.filter(|(_, line)| sleeps(line)).map(|(line, _)| line);
        complaints.extend(complaints_without_reason(path, text, sleeping));
    }
    complaints
}

fn is_rust_test(path: &str) -> bool {
    path.starts_with("crates/") && (path.contains("/tests/") || path.ends_with("/tests.rs"))
}

/// Complaints about the `sleeping` lines (counted from 1) that have no reason on the same line or the line before.
fn complaints_without_reason(
    path: &str,
    text: &str,
    sleeping: impl Iterator<Item = usize>,
) -> Vec<Complaint> {
    let lines: Vec<&str> = text.lines().collect();
    let explained =
        |line: usize| lines[line.saturating_sub(2)..line].iter().any(|text| text.contains(SLEEP_REASON_MARK));
    let message = format!(
        "wait for an event, or pause the clock; if neither is possible, write `{SLEEP_REASON_MARK} …`"
    );
    sleeping
        .filter(|line| !explained(*line))
        .map(|line| Complaint::at_line(path, line, message.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    #[test]
    fn a_sleep_without_a_reason_is_reported() {
        for (path, text) in [
            ("crates/server/tests/it/room.rs", "\ntokio::time::sleep(wait).await;"),
            ("crates/server/src/config/tests.rs", "// the server\nsleep(wait).await;"),
            ("e2e/chat.test.js", "\nawait page.waitForTimeout(100);"),
            ("e2e/chat.test.js", "\nawait new Promise((done) => setTimeout(done, 100));"),
        ] {
            let complaints = run_rule(no_sleep_in_a_test_without_a_reason, &[(path, text)]);
            assert!(complaints.len() == 1 && complaints[0].contains(":2: wait "), "{text}: {complaints:?}");
        }
    }

    #[test]
    fn a_sleep_with_a_reason_is_not_reported() {
        for (path, text) in [
            ("crates/server/tests/it/room.rs", "sleep(wait).await; // waits for: nothing to come"),
            ("crates/server/tests/it/room.rs", "// waits for: nothing to come\nsleep(wait).await;"),
            ("crates/server/tests/it/room.rs", "// sleep(wait)"),
            ("crates/server/src/tail.rs", "sleep(wait).await;"),
        ] {
            assert!(run_rule(no_sleep_in_a_test_without_a_reason, &[(path, text)]).is_empty(), "{text}");
        }
    }
}
