//! Decisions are numbered in the order in which they were taken, and each says what was rejected.

use super::{Complaint, Tree};

const HOME: &str = "docs/decisions/";
const PARTS: [&str; 3] = ["## Context", "## Decision", "## Rejected"];

/// Every decision: path, name and text.
fn decisions(tree: &Tree) -> impl Iterator<Item = (&str, &str, &str)> {
    tree.with_extension(&["md"])
        .filter_map(|(path, text)| Some((path, path.strip_prefix(HOME)?, text)))
        .filter(|(_, name, _)| *name != "README.md")
}

pub(super) fn decisions_are_numbered(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for ((path, name, _), expected) in decisions(tree).zip(1_u32..) {
        if number(name) != Some(expected) {
            let message = format!("use {expected:04}-title.md here: numbers have no gap and no double");
            complaints.push(Complaint::about(path, message));
        }
    }
    complaints
}

/// The number of `NNNN-title.md`.
fn number(name: &str) -> Option<u32> {
    let (number, title) = name.split_once('-')?;
    (number.len() == 4 && title != ".md").then(|| number.parse().ok())?
}

pub(super) fn decisions_have_their_parts(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, _, text) in decisions(tree) {
        for part in PARTS.into_iter().filter(|part| !text.lines().any(|line| line.trim_end() == *part)) {
            complaints.push(Complaint::about(path, format!("use the three headings; `{part}` is missing")));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::told;

    #[test]
    fn a_gap_a_double_and_a_name_without_number_are_told() {
        for (second, expected) in [("0003-b.md", 1), ("0001-b.md", 1), ("sqlite.md", 1), ("0002-b.md", 0)] {
            let path = format!("docs/decisions/{second}");
            let files =
                [("docs/decisions/0001-a.md", ""), ("docs/decisions/README.md", ""), (path.as_str(), "")];
            let complaints = told(decisions_are_numbered, &files);
            assert_eq!(complaints.len(), expected, "{second}: {complaints:?}");
            assert!(complaints.iter().all(|c| c.contains("use 0002-title.md here")), "{complaints:?}");
        }
    }

    #[test]
    fn a_missing_heading_is_told() {
        let whole = "# Title\n\n## Context\n\n## Decision\n\n## Rejected\n";
        let path = "docs/decisions/0001-a.md";
        assert!(told(decisions_have_their_parts, &[(path, whole)]).is_empty());
        let complaints = told(decisions_have_their_parts, &[(path, "## Context\n## Decision\n### Rejected")]);
        assert_eq!(complaints, [format!("{path}: use the three headings; `## Rejected` is missing")]);
    }
}
