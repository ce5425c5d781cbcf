//! What a server must survive is a list with numbers, and each number has its tests.

use std::collections::BTreeMap;

use super::source::{Source, words};
use super::{Complaint, Tree};

const LIST: &str = "docs/hostile.md";
const TESTS: &str = "crates/server/tests/it/hostile/";

/// Where the tests of faults and size are, whose rows have no number.
const FAULT_TESTS: &str = "crates/server/tests/it/";

/// How many lines the list has.
const LINES: u32 = 30;

pub(super) fn hostile_tests_are_listed(tree: &Tree) -> Vec<Complaint> {
    let Some(list) = tree.text(LIST) else { return Vec::new() };
    let tests = tests(tree);
    let (mut complaints, mut listed) = (Vec::new(), BTreeMap::new());
    for (index, line) in list.lines().enumerate() {
        let Some(number) = row(line) else {
            complaints.extend(unknown_tests(tree, index + 1, line));
            continue;
        };
        for name in named(line) {
            listed.entry(name).or_insert(number);
            if number_of(name) != Some(number) {
                let message = format!("use a test of this line here; `{name}` is of another");
                complaints.push(Complaint::at(LIST, index + 1, message));
            } else if !tests.contains_key(name) {
                let message = format!("use the name of a test in {TESTS}; `{name}` is none");
                complaints.push(Complaint::at(LIST, index + 1, message));
            }
        }
    }
    for number in (1..=LINES).filter(|number| !listed.values().any(|listed| listed == number)) {
        complaints.push(Complaint::about(LIST, format!("use a row with a test for line {number}")));
    }
    for (name, (path, line)) in tests.iter().filter(|(name, _)| !listed.contains_key(*name)) {
        let message = format!("use the row of its number in {LIST} to name `{name}`");
        complaints.push(Complaint::at(path, *line, message));
    }
    complaints
}

/// What a row without a number says of tests that its file does not have: "`file.rs`: `its_test`<br>`another_test`".
fn unknown_tests(tree: &Tree, line_number: usize, line: &str) -> Vec<Complaint> {
    let mut names = line.split('`').skip(1).step_by(2);
    let Some(file) = names.find(|name| line.starts_with('|') && name.ends_with(".rs")) else {
        return Vec::new();
    };
    let path = format!("{FAULT_TESTS}{file}");
    let source = tree.text(&path).unwrap_or_default();
    let unknown = names.filter(|name| !source.contains(&format!("fn {name}(")));
    let complaint = |name| {
        Complaint::at(LIST, line_number, format!("use the name of a test in {path}; `{name}` is none"))
    };
    unknown.map(complaint).collect()
}

/// Every test with a number, and where it is.
fn tests(tree: &Tree) -> BTreeMap<&str, (&str, usize)> {
    let mut tests = BTreeMap::new();
    for (path, text) in tree.with_extension(&["rs"]).filter(|(path, _)| path.starts_with(TESTS)) {
        for (line, code) in Source::parse(text).lines() {
            let mut names = words(code).skip_while(|word| *word != "fn").skip(1);
            if let Some(name) = names.next().filter(|name| number_of(name).is_some()) {
                // The source without its comments is another text; the names live in the tree's.
                let name = text.find(name).map(|at| &text[at..at + name.len()]);
                tests.extend(name.map(|name| (name, (path, line))));
            }
        }
    }
    tests
}

/// The number of `hostile_NN_what_it_shows`.
fn number_of(name: &str) -> Option<u32> {
    let (number, rest) = name.strip_prefix("hostile_")?.split_once('_')?;
    (number.len() == 2 && !rest.is_empty()).then(|| number.parse().ok())?
}

/// The number that a row of the table begins with.
fn row(line: &str) -> Option<u32> {
    line.strip_prefix('|')?.split('|').next()?.trim().parse().ok()
}

/// The tests that a row names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|code| number_of(code).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::told;

    /// A list and tests of all lines, but for what differs in line 7.
    fn complaints(row: &str, test: &str) -> Vec<String> {
        let others = (1..=LINES).filter(|number| *number != 7);
        let rows: String = others.clone().map(|n| format!("| {n} | x | `hostile_{n:02}_x` |\n")).collect();
        let tests: String = others.map(|n| format!("async fn hostile_{n:02}_x() {{}}\n")).collect();
        let (list, source) = (format!("{row}\n{rows}"), format!("{test}\n{tests}"));
        let files = [(LIST, list.as_str()), ("crates/server/tests/it/hostile/a.rs", source.as_str())];
        told(hostile_tests_are_listed, &files)
    }

    #[test]
    fn a_list_and_its_tests_that_drift_apart_are_told() {
        for (row, test, told) in [
            ("| 7 | x | `hostile_07_x` |", "", "none"),
            ("| 7 | x | `hostile_08_x` |", "fn hostile_07_x() {}", "another"),
            ("| 7 | x | |", "", "line 7"),
            ("| 7 | x | `hostile_07_x` |", "fn hostile_07_x() {}\nfn hostile_07_y() {}", "a.rs:2"),
        ] {
            let complaints = complaints(row, test);
            assert!(complaints.iter().any(|c| c.contains(told)), "{row} {test}: {complaints:?}");
        }
    }

    #[test]
    fn a_list_and_its_tests_that_agree_are_not() {
        let row = "| 7 | `limits.frame` | `hostile_07_x`<br>`hostile_07_y` |";
        let test = "fn hostile_07_x() {}\nfn hostile_07_y() {} // fn hostile_07_z()\nfn other() {}";
        assert_eq!(complaints(row, test), [""; 0]);
        assert_eq!(told(hostile_tests_are_listed, &[]), [""; 0]);
    }

    #[test]
    fn a_row_without_a_number_names_tests_of_its_file() {
        let row = "| a fault, `/readyz` | x | `faults.rs`: `it_ends`<br>`it_starts_again` |";
        let file = (format!("{FAULT_TESTS}faults.rs"), "async fn it_ends() {}");
        let told = told(hostile_tests_are_listed, &[(LIST, row), (&file.0, file.1)]);
        let of_the_row: Vec<_> = told.iter().filter(|told| told.contains("faults.rs")).collect();
        assert!(of_the_row.len() == 1 && of_the_row[0].contains("`it_starts_again` is none"), "{told:?}");
    }
}
