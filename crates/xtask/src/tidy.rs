//! The rules of this repository that no compiler or linter knows. Each is a function from the files to
//! complaints, and each complaint says what to do instead.

mod decisions;
mod docs;
mod filler;
mod hostile;
mod imports;
mod layers;
mod machine;
mod names;
mod rust;
mod size;
mod sleep;
mod source;
mod tree;

use std::path::{Path, PathBuf};
use std::{env, fmt, io};

use tree::Tree;

type Rule = fn(&Tree) -> Vec<Complaint>;

const RULES: &[Rule] = &[
    size::files_fit_their_limit,
    rust::time_is_injected,
    rust::queues_are_bounded,
    rust::sql_stays_in_the_store,
    layers::imports_run_downward,
    layers::circles_are_small,
    names::no_vague_name_of_a_file,
    sleep::no_sleep_in_a_test_without_a_reason,
    docs::named_paths_exist,
    filler::comments_name_the_actor,
    hostile::hostile_tests_are_listed,
    decisions::decisions_are_numbered,
    decisions::decisions_have_their_headings,
    decisions::decisions_are_in_the_table,
    machine::paths_are_relative,
    machine::npm_lock_names_no_host,
    machine::cargo_lock_names_only_crates_io,
];

/// A place in the repository that breaks a rule, with advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    path: String,
    line: Option<usize>,
    message: String,
}

impl Complaint {
    fn for_file(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, message: message.into() }
    }

    /// A complaint about a line, counted from 1.
    fn at_line(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), ..Self::for_file(path, message) }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// The root of this repository, under `cargo run` and `cargo test`; elsewhere, the current directory. The
/// variable is read at run time because checkouts that share a target directory share this binary.
pub fn repository() -> PathBuf {
    match env::var_os("CARGO_MANIFEST_DIR") {
        Some(manifest) => Path::new(&manifest).join("../.."),
        None => PathBuf::from("."),
    }
}

/// Returns complaints (everything that breaks a rule in the repository at `root`) and hints (limits of ratchets that could be
/// lower, which break no rule).
///
/// # Errors
/// Git cannot list the files, or a file cannot be read.
pub fn check(root: &Path) -> io::Result<(Vec<Complaint>, Vec<Complaint>)> {
    let tree = Tree::read(root)?;
    let complaints = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    Ok((complaints, filler::ratchets_to_lower(&tree)))
}

/// Runs one rule on these files (path and text); returns its complaints as they are printed.
#[cfg(test)]
fn run_rule(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    rule(&Tree::from_texts(files)).iter().map(ToString::to_string).collect()
}
