//! Long files are split by idea. Those that are too long already are in the ratchet, which only shrinks.

use std::collections::BTreeMap;

use super::{Complaint, Tree};

/// Most lines of a source file: what one still has an overview of.
const MAX_LINES: usize = 500;

const SOURCES: &[&str] = &["rs", "ts", "js", "css", "sql"];

/// Lines of `<lines> <path>`, and comments with `#`.
const RATCHETS: &str = "crates/xtask/ratchets.txt";

pub(super) fn files_fit_their_limit(tree: &Tree) -> Vec<Complaint> {
    let (mut ratchets, mut complaints) = read_ratchets(tree);
    // What is generated nobody has to have an overview of.
    for (path, text) in tree.with_extension(SOURCES).filter(|(path, _)| *path != crate::types::PATH) {
        let complaint = check(text.lines().count(), ratchets.remove(path));
        complaints.extend(complaint.map(|message| Complaint::about(path, message)));
    }
    complaints.extend(ratchets.keys().map(|path| {
        Complaint::about(RATCHETS, format!("{path} is no source file any more; take its line out"))
    }));
    complaints
}

/// What is wrong with a file of so many lines, and with its ratchet.
fn check(lines: usize, ratchet: Option<usize>) -> Option<String> {
    match ratchet {
        None if lines > MAX_LINES => {
            Some(format!("{lines} lines; use a file per idea, each of at most {MAX_LINES} lines"))
        }
        Some(most) if lines > most => {
            Some(format!("{lines} lines, up from {most}; use another file for what is new"))
        }
        Some(_) if lines <= MAX_LINES => {
            Some(format!("only {lines} lines now, well done; take its line out of {RATCHETS}"))
        }
        Some(most) if lines < most => {
            Some(format!("only {lines} lines now, well done; lower it to {lines} in {RATCHETS}"))
        }
        _ => None,
    }
}

fn read_ratchets(tree: &Tree) -> (BTreeMap<&str, usize>, Vec<Complaint>) {
    let (mut ratchets, mut complaints) = (BTreeMap::new(), Vec::new());
    let lines = tree.text(RATCHETS).unwrap_or_default().lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').and_then(|(lines, path)| Some((path, lines.parse().ok()?))) {
            Some((path, lines)) if ratchets.insert(path, lines).is_none() => {}
            _ => complaints.push(Complaint::at(RATCHETS, index + 1, "use `<lines> <path>`, once for a file")),
        }
    }
    (ratchets, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::told;

    fn of_length(lines: usize, ratchets: &str) -> Vec<String> {
        let text = "x\n".repeat(lines);
        told(files_fit_their_limit, &[("a.js", &text), ("a.json", &text), (RATCHETS, ratchets)])
    }

    #[test]
    fn a_file_over_the_limit_is_to_be_split() {
        assert!(of_length(500, "").is_empty());
        assert_eq!(of_length(501, ""), ["a.js: 501 lines; use a file per idea, each of at most 500 lines"]);
    }

    #[test]
    fn a_ratchet_only_shrinks() {
        assert!(of_length(600, "# why\n\n600 a.js\n").is_empty());
        assert!(of_length(601, "600 a.js")[0].contains("up from 600"));
        assert!(of_length(599, "600 a.js")[0].contains("lower it to 599"));
        assert!(of_length(500, "600 a.js")[0].contains("take its line out"));
    }

    #[test]
    fn a_ratchet_is_for_a_file_that_is_there() {
        assert!(of_length(1, "600 b.js")[0].contains("b.js is no source file any more"));
        assert!(of_length(600, "600 a.js\n600 a.js")[0].starts_with("crates/xtask/ratchets.txt:2: use"));
        assert!(of_length(1, "many a.js")[0].contains("use `<lines> <path>`"));
    }
}
