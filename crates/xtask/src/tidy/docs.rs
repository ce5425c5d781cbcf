//! Every path that the docs name exists, because docs that no test reads go out of date.

use super::{Complaint, Tree};

/// A word that begins with one of these directories counts as a path, even if the directory does not exist.
const TOP_DIRECTORIES: &[&str] = &["bench", "crates", "docs", "e2e", "packages", "scripts", "testdata"];

/// A path that contains one of these is a pattern or an example.
const PLACEHOLDER_MARKS: &[&str] = &["*", "<", ">", "$", "…", "...", "NNNN"];

/// The changelog is exempt, because it may name files that were removed.
const CHANGELOG: &str = "CHANGELOG.md";

pub(super) fn named_paths_exist(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (document, text) in tree.with_extension(&["md"]).filter(|(path, _)| *path != CHANGELOG) {
        let mut fenced = false;
        for (index, line) in text.lines().enumerate() {
            let mut report = |path: &str| {
                let message = format!("use a path that exists; `{path}` does not");
                complaints.push(Complaint::at_line(document, index + 1, message));
            };
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                missing_paths_in_code(tree, line).for_each(|path| report(&path));
            } else {
                // Text between backticks is code, so every second part of the line is code.
                for (part, text) in line.split('`').enumerate() {
                    if part % 2 == 1 {
                        missing_paths_in_code(tree, text).for_each(|path| report(&path));
                    }
                }
                missing_link_targets(tree, document, line).for_each(|path| report(&path));
            }
        }
    }
    complaints
}

/// Finds the paths in a piece of code or a command that do not exist.
fn missing_paths_in_code<'a>(tree: &'a Tree, code: &'a str) -> impl Iterator<Item = String> + 'a {
    code.split_whitespace()
        .map(|word| {
            word.trim_start_matches(['"', '\'', '(']).trim_end_matches(['"', '\'', ')', ',', ';', '.'])
        })
        .filter(|word| !PLACEHOLDER_MARKS.iter().any(|placeholder| word.contains(placeholder)))
        .filter_map(|word| {
            // A path may be followed by a line number, an item or an anchor.
            let path = word.split([':', '#']).next().unwrap_or(word);
            match path.strip_prefix("./") {
                Some(path) => Some(path),
                None => path.split_once('/').filter(|(top, _)| is_top_level(tree, top)).map(|_| path),
            }
        })
        .filter(|path| !is_ignored(tree, path))
        .flat_map(expand_braces)
        .filter(|path| !tree.has(path.trim_end_matches('/')))
}

fn is_top_level(tree: &Tree, name: &str) -> bool {
    TOP_DIRECTORIES.contains(&name) || (!name.is_empty() && tree.has(name) && tree.text(name).is_none())
}

/// Whether git ignores the path, as it ignores build output, which need not exist.
fn is_ignored(tree: &Tree, path: &str) -> bool {
    let ignored = tree.text(".gitignore").unwrap_or_default();
    path.split('/').any(|part| ignored.lines().any(|line| line.trim_matches('/') == part))
}

/// Expands `a/{b,c}.rs` to `a/b.rs` and `a/c.rs`.
fn expand_braces(path: &str) -> Vec<String> {
    let braces = path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (names, after))) => {
            names.split(',').flat_map(|name| expand_braces(&format!("{before}{name}{after}"))).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Finds the targets of links within the repository that do not exist.
fn missing_link_targets<'a>(
    tree: &'a Tree,
    document: &'a str,
    line: &'a str,
) -> impl Iterator<Item = String> + 'a {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#', ' ']).next())
        .filter(|target| !target.is_empty() && !target.contains(':'))
        .map(|target| resolve_link(document, target))
        .filter(|path| !path.is_empty() && !tree.has(path))
}

/// Resolves the target of a link in a document to a path from the repository's root.
fn resolve_link(document: &str, target: &str) -> String {
    let directory = document.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut path: Vec<&str> =
        if target.starts_with('/') { Vec::new() } else { directory.split('/').collect() };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.retain(|part| !part.is_empty());
    path.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    /// Finds the paths that do not exist in a line of `docs/a.md`.
    fn missing_paths(line: &str) -> Vec<String> {
        let files = [
            (".gitignore", "/target\nnode_modules\n"),
            ("README.md", ""),
            ("crates/server/src/cli/send.rs", ""),
            ("crates/server/src/cli/tail.rs", ""),
            ("tools/run", ""),
            ("docs/a.md", line),
        ];
        let complaints = run_rule(named_paths_exist, &files);
        complaints.iter().map(|c| c.split('`').nth(1).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn missing_paths_are_reported() {
        for (line, path) in [
            ("see `crates/server/src/main.rs`", "crates/server/src/main.rs"),
            ("`sh scripts/go.sh --fast`", "scripts/go.sh"),
            ("`tools/walk`, for the slow", "tools/walk"),
            ("`./run`", "run"),
            ("```\ntestdata/protocol/   vectors\n```", "testdata/protocol/"),
            ("`crates/server/src/cli/{send,show}.rs`", "crates/server/src/cli/show.rs"),
            ("[why](decisions/0001-a.md)", "docs/decisions/0001-a.md"),
            ("[`why`](../b.md#part)", "b.md"),
        ] {
            assert_eq!(missing_paths(line), [path], "{line}");
        }
    }

    #[test]
    fn existing_paths_patterns_and_prose_are_not_reported() {
        for line in [
            "`crates/server/src/cli/{send,tail}.rs` in `crates/server/`, `tools/run`, `./tools/run`",
            "`crates/server/src/cli/send.rs:7`, `crates/server/src/cli/send.rs::run`",
            "[here](../README.md#top), [there](a.md), [up](..), [out](https://example.com/docs/x), [down](#x)",
            "`docs/decisions/NNNN-title.md` and `crates/*/tests`",
            "`./target/release/switchboard` and `e2e/node_modules/x`",
            "`text/html`, `/v1/send`, `a/b`, and docs/nowhere.md in prose",
            "```\ncurl http://127.0.0.1:9501/docs/x\n```",
        ] {
            assert_eq!(missing_paths(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn the_changelog_is_not_checked() {
        assert!(run_rule(named_paths_exist, &[("CHANGELOG.md", "`docs/gone.md`")]).is_empty());
    }
}
