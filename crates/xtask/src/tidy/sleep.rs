//! A test that sleeps is slow when the sleep is too long and fails when it is too short. It waits for what
//! is to happen; where nothing tells of that, it says what the time is for.

use super::source::{Source, calls};
use super::{Complaint, Tree};

const REASON: &str = "// waits for:";

pub(super) fn tests_say_what_they_wait_for(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.with_extension(&["rs"]).filter(|(path, _)| is_rust_test(path)) {
        let source = Source::parse(text);
        let sleeping = source.lines().filter(|(_, code)| calls(code, "sleep")).map(|(line, _)| line);
        complaints.extend(unexplained(path, text, sleeping));
    }
    for (path, text) in tree.with_extension(&["js", "ts"]).filter(|(path, _)| path.starts_with("e2e/")) {
        let sleeps =
            |line: &str| ["sleep", "setTimeout", "waitForTimeout"].iter().any(|name| calls(line, name));
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let sleeping = lines.filter(|(_, line)| sleeps(line)).map(|(line, _)| line);
        complaints.extend(unexplained(path, text, sleeping));
    }
    complaints
}

fn is_rust_test(path: &str) -> bool {
    path.starts_with("crates/") && (path.contains("/tests/") || path.ends_with("/tests.rs"))
}

/// Complaints about those lines (counted from 1) that neither give the reason nor follow it.
fn unexplained(path: &str, text: &str, sleeping: impl Iterator<Item = usize>) -> Vec<Complaint> {
    let lines: Vec<&str> = text.lines().collect();
    let explained =
        |line: usize| lines[line.saturating_sub(2)..line].iter().any(|text| text.contains(REASON));
    let message = format!("use an event to wait for, or a paused clock; if there is none, say `{REASON} …`");
    sleeping.filter(|line| !explained(*line)).map(|line| Complaint::at(path, line, message.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::told;

    #[test]
    fn a_sleep_without_a_reason_is_told() {
        for (path, text) in [
            ("crates/server/tests/it/room.rs", "\ntokio::time::sleep(wait).await;"),
            ("crates/server/src/config/tests.rs", "// the server\nsleep(wait).await;"),
            ("e2e/chat.test.js", "\nawait page.waitForTimeout(100);"),
            ("e2e/chat.test.js", "\nawait new Promise((done) => setTimeout(done, 100));"),
        ] {
            let complaints = told(tests_say_what_they_wait_for, &[(path, text)]);
            assert!(complaints.len() == 1 && complaints[0].contains(":2: use "), "{text}: {complaints:?}");
        }
    }

    #[test]
    fn a_sleep_with_a_reason_is_not() {
        for (path, text) in [
            ("crates/server/tests/it/room.rs", "sleep(wait).await; // waits for: nothing to come"),
            ("crates/server/tests/it/room.rs", "// waits for: nothing to come\nsleep(wait).await;"),
            ("crates/server/tests/it/room.rs", "// sleep(wait)"),
            ("crates/server/src/tail.rs", "sleep(wait).await;"),
        ] {
            assert!(told(tests_say_what_they_wait_for, &[(path, text)]).is_empty(), "{text}");
        }
    }
}
