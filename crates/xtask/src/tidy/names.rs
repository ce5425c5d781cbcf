//! Files and modules are named after a noun of the domain, because a module called `utils` collects unrelated code.

use super::source::{Source, split_into_words};
use super::{Complaint, Tree};

const VAGUE_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "management"];

pub(super) fn no_vague_name_of_a_file(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (path, _) in tree.iter() {
        let mut stems = path.split('/').map(|part| part.split('.').next().unwrap_or(part));
        if let Some(name) = stems.find(|stem| is_vague(stem)) {
            complaints.push(Complaint::for_file(path, vague_name_message(name)));
        }
    }
    for (path, text) in tree.with_extension(&["rs"]) {
        for (line, code) in Source::parse(text).lines() {
            let names: Vec<&str> = split_into_words(code).collect();
            let module = names.windows(2).find(|pair| pair[0] == "mod" && is_vague(pair[1]));
            complaints.extend(module.map(|pair| Complaint::at_line(path, line, vague_name_message(pair[1]))));
        }
    }
    complaints
}

/// Whether a name, or its last part, is in the list of vague names.
fn is_vague(name: &str) -> bool {
    VAGUE_NAMES.contains(&name.rsplit(['_', '-']).next().unwrap_or(name))
}

fn vague_name_message(name: &str) -> String {
    format!("use a noun of the domain in place of `{name}`: what is it about?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    #[test]
    fn vague_names_are_reported() {
        for path in ["crates/server/src/utils.rs", "packages/web/common/a.js", "e2e/room_manager.test.js"] {
            assert_eq!(run_rule(no_vague_name_of_a_file, &[(path, "")]).len(), 1, "{path}");
        }
        assert_eq!(
            run_rule(no_vague_name_of_a_file, &[("a.rs", "\npub(crate) mod helpers {")]),
            ["a.rs:2: use a noun of the domain in place of `helpers`: what is it about?"]
        );
    }

    #[test]
    fn other_names_are_not_reported() {
        let code = "mod commons; // mod utils\nfn utils() {}";
        assert!(run_rule(no_vague_name_of_a_file, &[("crates/server/tests/it/support.rs", code)]).is_empty());
    }
}
