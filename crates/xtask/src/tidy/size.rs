//! Source files have a limit of lines. A ratchet lists the files that may be longer; its numbers only go down.

use std::collections::BTreeMap;

use super::{Complaint, Tree};

/// The most lines that a source file may have, so that a reader can keep an overview of it.
const MAX_LINES: usize = 500;

const SOURCE_EXTENSIONS: &[&str] = &["rs", "ts", "js", "css", "sql"];

/// The file of the ratchets: lines of `<lines> <path>`, and comments after `#`.
const LENGTH_RATCHETS: &str = "crates/xtask/ratchets.txt";

pub(super) fn files_fit_their_limit(tree: &Tree) -> Vec<Complaint> {
    let (mut ratchets, mut complaints) = read_ratchets(tree);
    // The generated file of types is exempt, because people do not read it.
    for (path, text) in
        tree.with_extension(SOURCE_EXTENSIONS).filter(|(path, _)| *path != crate::types::TYPES_FILE)
    {
        let complaint = check_length(text.lines().count(), ratchets.remove(path));
        complaints.extend(complaint.map(|message| Complaint::for_file(path, message)));
    }
    complaints.extend(ratchets.keys().map(|path| {
        Complaint::for_file(LENGTH_RATCHETS, format!("{path} is no source file any more; remove its line"))
    }));
    complaints
}

/// Compares the number of a file's lines with the limit, or with the file's ratchet if it has one.
fn check_length(lines: usize, ratchet: Option<usize>) -> Option<String> {
    match ratchet {
        None if lines > MAX_LINES => {
            Some(format!("{lines} lines; split it by idea into files of at most {MAX_LINES} lines"))
        }
        Some(most) if lines > most => {
            Some(format!("{lines} lines, up from {most}; put new code into another file"))
        }
        Some(_) if lines <= MAX_LINES => {
            Some(format!("only {lines} lines now; remove its line from {LENGTH_RATCHETS}"))
        }
        Some(most) if lines < most => {
            Some(format!("only {lines} lines now; lower it to {lines} in {LENGTH_RATCHETS}"))
        }
        _ => None,
    }
}

fn read_ratchets(tree: &Tree) -> (BTreeMap<&str, usize>, Vec<Complaint>) {
    let (mut ratchets, mut complaints) = (BTreeMap::new(), Vec::new());
    let lines = tree.text(LENGTH_RATCHETS).unwrap_or_default().lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').and_then(|(lines, path)| Some((path, lines.parse().ok()?))) {
            Some((path, lines)) if ratchets.insert(path, lines).is_none() => {}
            _ => complaints.push(Complaint::at_line(
                LENGTH_RATCHETS,
                index + 1,
                "use `<lines> <path>`, once for a file",
            )),
        }
    }
    (ratchets, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    fn check_file_of(lines: usize, ratchets: &str) -> Vec<String> {
        let text = "x\n".repeat(lines);
        run_rule(files_fit_their_limit, &[("a.js", &text), ("a.json", &text), (LENGTH_RATCHETS, ratchets)])
    }

    #[test]
    fn a_file_over_the_limit_is_reported() {
        assert!(check_file_of(500, "").is_empty());
        assert_eq!(
            check_file_of(501, ""),
            ["a.js: 501 lines; split it by idea into files of at most 500 lines"]
        );
    }

    #[test]
    fn a_ratchet_only_goes_down() {
        assert!(check_file_of(600, "# why\n\n600 a.js\n").is_empty());
        assert!(check_file_of(601, "600 a.js")[0].contains("up from 600"));
        assert!(check_file_of(599, "600 a.js")[0].contains("lower it to 599"));
        assert!(check_file_of(500, "600 a.js")[0].contains("remove its line"));
    }

    #[test]
    fn a_ratchet_without_its_file_is_reported() {
        assert!(check_file_of(1, "600 b.js")[0].contains("b.js is no source file any more"));
        assert!(check_file_of(600, "600 a.js\n600 a.js")[0].starts_with("crates/xtask/ratchets.txt:2: use"));
        assert!(check_file_of(1, "many a.js")[0].contains("use `<lines> <path>`"));
    }
}
