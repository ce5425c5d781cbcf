//! Decisions are numbered without gaps in the order in which they were taken, each has the three headings, and the
//! table in their README has a row for each.

use super::{Complaint, Tree};

const DECISIONS_DIRECTORY: &str = "docs/decisions/";
const REQUIRED_HEADINGS: [&str; 3] = ["## Context", "## Decision", "## Rejected"];

/// The path, the file name and the text of every decision.
fn decisions(tree: &Tree) -> impl Iterator<Item = (&str, &str, &str)> {
    tree.with_extension(&["md"])
        .filter_map(|(path, text)| Some((path, path.strip_prefix(DECISIONS_DIRECTORY)?, text)))
        .filter(|(_, name, _)| *name != "README.md")
}

pub(super) fn decisions_are_numbered(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for ((path, name, _), expected) in decisions(tree).zip(1_u32..) {
        if number_in_file_name(name) != Some(expected) {
            let message = format!("use {expected:04}-title.md here: numbers have no gap and no duplicate");
            complaints.push(Complaint::for_file(path, message));
        }
    }
    complaints
}

/// The number in a file name of the form `NNNN-title.md`.
fn number_in_file_name(name: &str) -> Option<u32> {
    let (number, title) = name.split_once('-')?;
    (number.len() == 4 && title != ".md").then(|| number.parse().ok())?
}

pub(super) fn decisions_have_their_headings(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, _, text) in decisions(tree) {
        for heading in REQUIRED_HEADINGS
            .into_iter()
            .filter(|heading| !text.lines().any(|line| line.trim_end() == *heading))
        {
            complaints
                .push(Complaint::for_file(path, format!("use the three headings; `{heading}` is missing")));
        }
    }
    complaints
}

pub(super) fn decisions_are_in_the_table(tree: &Tree) -> Vec<Complaint> {
    let table = format!("{DECISIONS_DIRECTORY}README.md");
    let rows = tree.text(&table).unwrap_or_default();
    decisions(tree)
        .filter(|(_, name, _)| !rows.contains(&format!("({name})")))
        .map(|(_, name, _)| Complaint::for_file(&table, format!("add a row that links to {name}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    #[test]
    fn a_gap_a_duplicate_and_a_name_without_a_number_are_reported() {
        for (second, expected) in [("0003-b.md", 1), ("0001-b.md", 1), ("sqlite.md", 1), ("0002-b.md", 0)] {
            let path = format!("docs/decisions/{second}");
            let files =
                [("docs/decisions/0001-a.md", ""), ("docs/decisions/README.md", ""), (path.as_str(), "")];
            let complaints = run_rule(decisions_are_numbered, &files);
            assert_eq!(complaints.len(), expected, "{second}: {complaints:?}");
            assert!(complaints.iter().all(|c| c.contains("use 0002-title.md here")), "{complaints:?}");
        }
    }

    #[test]
    fn a_decision_without_a_row_is_reported() {
        let files = [("docs/decisions/0001-a.md", ""), ("docs/decisions/0002-b.md", "")];
        let table = ("docs/decisions/README.md", "| [0001](0001-a.md) | A | holds | |");
        assert_eq!(
            run_rule(decisions_are_in_the_table, &[files[0], files[1], table]),
            ["docs/decisions/README.md: add a row that links to 0002-b.md"]
        );
    }

    #[test]
    fn a_missing_heading_is_reported() {
        let whole = "# Title\n\n## Context\n\n## Decision\n\n## Rejected\n";
        let path = "docs/decisions/0001-a.md";
        assert!(run_rule(decisions_have_their_headings, &[(path, whole)]).is_empty());
        let complaints =
            run_rule(decisions_have_their_headings, &[(path, "## Context\n## Decision\n### Rejected")]);
        assert_eq!(complaints, [format!("{path}: use the three headings; `## Rejected` is missing")]);
    }
}
