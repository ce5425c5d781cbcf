//! `docs/hostile.md` lists hostile inputs by number. Each number has a test in the server, and each such test has a row in it.

use std::collections::BTreeMap;

use super::source::{Source, split_into_words};
use super::{Complaint, Tree};

const HOSTILE_TEST_LIST: &str = "docs/hostile.md";
const HOSTILE_TESTS_DIRECTORY: &str = "crates/server/tests/it/hostile/";

/// The directory of the tests whose rows in the list have no number: tests of faults and of size.
const FAULT_TESTS_DIRECTORY: &str = "crates/server/tests/it/";

/// How many rows with a number the list has.
const NUMBERED_ROW_COUNT: u32 = 30;

pub(super) fn hostile_tests_are_listed(tree: &Tree) -> Vec<Complaint> {
    let Some(list) = tree.text(HOSTILE_TEST_LIST) else { return Vec::new() };
    let tests = tests(tree);
    let (mut complaints, mut listed) = (Vec::new(), BTreeMap::new());
    for (index, line) in list.lines().enumerate() {
        let Some(number) = row_number(line) else {
            complaints.extend(unknown_tests(tree, index + 1, line));
            continue;
        };
        for name in named_tests(line) {
            listed.entry(name).or_insert(number);
            if number_in_test_name(name) != Some(number) {
                let message = format!("use a test of this row here; `{name}` belongs to another");
                complaints.push(Complaint::at_line(HOSTILE_TEST_LIST, index + 1, message));
            } else if !tests.contains_key(name) {
                let message =
                    format!("use the name of a test in {HOSTILE_TESTS_DIRECTORY}; there is no test `{name}`");
                complaints.push(Complaint::at_line(HOSTILE_TEST_LIST, index + 1, message));
            }
        }
    }
    for number in (1..=NUMBERED_ROW_COUNT).filter(|number| !listed.values().any(|listed| listed == number)) {
        complaints.push(Complaint::for_file(
            HOSTILE_TEST_LIST,
            format!("add a row with a test for number {number}"),
        ));
    }
    for (name, (path, line)) in tests.iter().filter(|(name, _)| !listed.contains_key(*name)) {
        let message = format!("name `{name}` in the row of its number in {HOSTILE_TEST_LIST}");
        complaints.push(Complaint::at_line(path, *line, message));
    }
    complaints
}

/// Complains about tests that a row without a number names, such as "`file.rs`: `its_test`<br>`another_test`", if the file does not
/// contain them.
fn unknown_tests(tree: &Tree, line_number: usize, line: &str) -> Vec<Complaint> {
    let mut names = line.split('`').skip(1).step_by(2);
    let Some(file) = names.find(|name| line.starts_with('|') && name.ends_with(".rs")) else {
        return Vec::new();
    };
    let path = format!("{FAULT_TESTS_DIRECTORY}{file}");
    let source = tree.text(&path).unwrap_or_default();
    let unknown = names.filter(|name| !source.contains(&format!("fn {name}(")));
    let complaint = |name| {
        Complaint::at_line(
            HOSTILE_TEST_LIST,
            line_number,
            format!("use the name of a test in {path}; there is no test `{name}`"),
        )
    };
    unknown.map(complaint).collect()
}

/// Every test with a number in its name, with its path and line.
fn tests(tree: &Tree) -> BTreeMap<&str, (&str, usize)> {
    let mut tests = BTreeMap::new();
    for (path, text) in
        tree.with_extension(&["rs"]).filter(|(path, _)| path.starts_with(HOSTILE_TESTS_DIRECTORY))
    {
        for (line, code) in Source::parse(text).lines() {
            let mut names = split_into_words(code).skip_while(|word| *word != "fn").skip(1);
            if let Some(name) = names.next().filter(|name| number_in_test_name(name).is_some()) {
                // `Source` owns its text; borrow the name from the tree's text instead.
                let name = text.find(name).map(|at| &text[at..at + name.len()]);
                tests.extend(name.map(|name| (name, (path, line))));
            }
        }
    }
    tests
}

/// The number in a test's name, such as 7 in `hostile_07_what_it_shows`.
fn number_in_test_name(name: &str) -> Option<u32> {
    let (number, rest) = name.strip_prefix("hostile_")?.split_once('_')?;
    (number.len() == 2 && !rest.is_empty()).then(|| number.parse().ok())?
}

/// The number in the first cell of a table row.
fn row_number(line: &str) -> Option<u32> {
    line.strip_prefix('|')?.split('|').next()?.trim().parse().ok()
}

/// The names of tests that a row of the list contains.
fn named_tests(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|code| number_in_test_name(code).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    /// Runs the rule on a list and tests that are consistent, except for the given row and test of number 7.
    fn complaints_for_row_and_test(row: &str, test: &str) -> Vec<String> {
        let others = (1..=NUMBERED_ROW_COUNT).filter(|number| *number != 7);
        let rows: String = others.clone().map(|n| format!("| {n} | x | `hostile_{n:02}_x` |\n")).collect();
        let tests: String = others.map(|n| format!("async fn hostile_{n:02}_x() {{}}\n")).collect();
        let (list, source) = (format!("{row}\n{rows}"), format!("{test}\n{tests}"));
        let files =
            [(HOSTILE_TEST_LIST, list.as_str()), ("crates/server/tests/it/hostile/a.rs", source.as_str())];
        run_rule(hostile_tests_are_listed, &files)
    }

    #[test]
    fn rows_without_tests_and_tests_without_rows_are_reported() {
        for (row, test, expected) in [
            ("| 7 | x | `hostile_07_x` |", "", "there is no test"),
            ("| 7 | x | `hostile_08_x` |", "fn hostile_07_x() {}", "another"),
            ("| 7 | x | |", "", "number 7"),
            ("| 7 | x | `hostile_07_x` |", "fn hostile_07_x() {}\nfn hostile_07_y() {}", "a.rs:2"),
        ] {
            let complaints = complaints_for_row_and_test(row, test);
            assert!(complaints.iter().any(|c| c.contains(expected)), "{row} {test}: {complaints:?}");
        }
    }

    #[test]
    fn a_list_that_matches_its_tests_is_not_reported() {
        let row = "| 7 | `limits.frame` | `hostile_07_x`<br>`hostile_07_y` |";
        let test = "fn hostile_07_x() {}\nfn hostile_07_y() {} // fn hostile_07_z()\nfn other() {}";
        assert_eq!(complaints_for_row_and_test(row, test), [""; 0]);
        assert_eq!(run_rule(hostile_tests_are_listed, &[]), [""; 0]);
    }

    #[test]
    fn a_row_without_a_number_names_tests_of_its_file() {
        let row = "| a fault, `/readyz` | x | `faults.rs`: `it_ends`<br>`it_starts_again` |";
        let file = (format!("{FAULT_TESTS_DIRECTORY}faults.rs"), "async fn it_ends() {}");
        let complaints = run_rule(hostile_tests_are_listed, &[(HOSTILE_TEST_LIST, row), (&file.0, file.1)]);
        let of_the_row: Vec<_> = complaints.iter().filter(|line| line.contains("faults.rs")).collect();
        assert!(
            of_the_row.len() == 1 && of_the_row[0].contains("there is no test `it_starts_again`"),
            "{complaints:?}"
        );
    }
}
