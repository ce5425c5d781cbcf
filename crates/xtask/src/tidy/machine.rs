//! No file names a path or host of the machine on which it was written.

use super::{Complaint, Tree};

/// Directories at a machine's root in which repositories are often checked out. They are written without slashes, because this file
/// must pass its own rule.
const HOME_DIRECTORIES: [&str; 3] = ["work", "home", "root"];

const CRATES_IO_SOURCE_LINE: &str = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;

/// The text before the URL from which npm fetched a package.
const RESOLVED_FIELD: &str = r#""resolved": "#;

pub(super) fn paths_are_relative(tree: &Tree) -> Vec<Complaint> {
    let homes = HOME_DIRECTORIES.map(|home| format!("/{home}/"));
    let mut complaints = Vec::new();
    for (path, text) in tree.iter() {
        for (index, line) in text.lines().enumerate() {
            if let Some(home) = homes.iter().find(|home| has_absolute_path(line, home)) {
                let message = format!("use a path from the repository's root in place of `{home}…`");
                complaints.push(Complaint::at_line(path, index + 1, message));
            }
        }
    }
    complaints
}

/// Whether the line names this directory at the root of the file system. A directory of the same name further down, or in a URL,
/// does not count.
fn has_absolute_path(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~*})>]$".contains(c))
    })
}

/// A lock file that names a host makes every developer fetch from that host.
pub(super) fn npm_lock_names_no_host(tree: &Tree) -> Vec<Complaint> {
    let locks = tree.iter().filter(|(path, _)| path.ends_with("package-lock.json"));
    let mut complaints = Vec::new();
    for (path, text) in locks {
        let names_host =
            |line: &str| line.split_once(RESOLVED_FIELD).is_some_and(|(_, from)| from.starts_with("\"http"));
        if let Some(index) = text.lines().position(names_host) {
            let message = "use `omit-lockfile-registry-resolved=true` in .npmrc and make the lock file again";
            complaints.push(Complaint::at_line(path, index + 1, message));
        }
    }
    complaints
}

pub(super) fn cargo_lock_names_only_crates_io(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with("Cargo.lock")) {
        let lines = text.lines().enumerate();
        for (index, line) in
            lines.filter(|(_, line)| line.starts_with("source = ") && *line != CRATES_IO_SOURCE_LINE)
        {
            let message = format!("use a release from crates.io in place of {line}");
            complaints.push(Complaint::at_line(path, index + 1, message));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    #[test]
    fn an_absolute_path_of_a_machine_is_reported() {
        for home in HOME_DIRECTORIES {
            for text in
                [format!("/{home}/alice"), format!("a\n(see `/{home}/x`)"), format!("file:///{home}/x")]
            {
                assert_eq!(run_rule(paths_are_relative, &[("a.md", &text)]).len(), 1, "{text}");
            }
            for text in [format!("crates/{home}/x"), format!("https://example.com/{home}/x"), home.to_owned()]
            {
                assert!(run_rule(paths_are_relative, &[("a.md", &text)]).is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn a_host_in_the_npm_lock_is_reported() {
        let lock = "{\n  \"resolved\": \"https://registry.example/a.tgz\"\n}";
        let complaints = run_rule(npm_lock_names_no_host, &[("e2e/package-lock.json", lock)]);
        assert!(complaints[0].starts_with("e2e/package-lock.json:2: use `omit-lockfile"), "{complaints:?}");
        assert!(
            run_rule(npm_lock_names_no_host, &[("e2e/package-lock.json", "{ \"resolved\": \"../a\" }")])
                .is_empty()
        );
    }

    #[test]
    fn a_source_other_than_crates_io_is_reported() {
        let lock = |source: &str| format!("[[package]]\nname = \"a\"\n{source}\n");
        assert!(
            run_rule(cargo_lock_names_only_crates_io, &[("Cargo.lock", &lock(CRATES_IO_SOURCE_LINE))])
                .is_empty()
        );
        let mirror = lock("source = \"registry+https://registry.example/index\"");
        let complaints = run_rule(cargo_lock_names_only_crates_io, &[("Cargo.lock", &mirror)]);
        assert!(complaints[0].starts_with("Cargo.lock:3: use a release"), "{complaints:?}");
    }
}
