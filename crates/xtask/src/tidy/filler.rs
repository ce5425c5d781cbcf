//! Comments and docs name the actor, not a filler word. A ratchet lists how many filler words each directory may still have;
//! its numbers only go down, and a directory that is not listed may have none.

use std::collections::BTreeMap;

use super::source::Source;
use super::{Complaint, Tree};

/// Each filler word, and what to write in its place.
const FILLERS_AND_REPLACEMENTS: [(&str, &str); 5] = [
    ("whoever", "name the actor: a user who …, the session that …, an operator"),
    ("whatever", "name the thing: any error, every input, the command"),
    ("somebody", "name the actor: a user, a client, a member, an operator"),
    ("is told", "use the active voice with the message: the server sends the client `gap`"),
    ("are told", "use the active voice with the message: the server sends the members a signal"),
];

/// The file of the ratchet: lines of `<count> <directory>`, and comments after `#`.
const FILLER_RATCHETS: &str = "crates/xtask/fillers.txt";

/// File extensions of languages with comments between `/*` and `*/` or after `//`.
const SLASH_COMMENT_EXTENSIONS: &[&str] = &["ts", "js", "mjs", "css", "svelte", "php"];
/// File extensions of languages with comments after `#`.
const HASH_COMMENT_EXTENSIONS: &[&str] = &["sh", "py", "toml", "yml", "yaml"];

pub(super) fn comments_name_the_actor(tree: &Tree) -> Vec<Complaint> {
    let (ratchets, mut complaints) = read_ratchets(tree);
    for (directory, hits) in fillers_by_directory(tree) {
        match ratchets.get(directory.as_str()) {
            None => complaints.extend(hits.iter().map(FillerHit::complaint)),
            Some(most) if hits.len() > *most => {
                complaints.push(Complaint::for_file(&directory, too_many_fillers_message(&hits, *most)));
            }
            Some(_) => {}
        }
    }
    complaints
}

/// Finds directories with fewer filler words than their ratchet allows. This is a hint and not a complaint, because the next change
/// to the directory may come from another branch.
pub(super) fn ratchets_to_lower(tree: &Tree) -> Vec<Complaint> {
    let (ratchets, _) = read_ratchets(tree);
    let found = fillers_by_directory(tree);
    let mut hints = Vec::new();
    for (directory, most) in ratchets {
        let count = found.get(directory).map_or(0, Vec::len);
        if count < most {
            let new = if count == 0 { "remove its line".to_owned() } else { format!("lower it to {count}") };
            hints.push(Complaint::for_file(
                FILLER_RATCHETS,
                format!("{directory} has {count} of {most} fillers: {new}"),
            ));
        }
    }
    hints
}

/// A filler word found in a comment or in docs.
struct FillerHit<'a> {
    path: &'a str,
    line: usize,
    filler: &'static str,
    instead: &'static str,
}

impl FillerHit<'_> {
    fn complaint(&self) -> Complaint {
        Complaint::at_line(self.path, self.line, format!("`{}`: {}", self.filler, self.instead))
    }
}

fn too_many_fillers_message(hits: &[FillerHit<'_>], most: usize) -> String {
    let mut instead: Vec<String> = FILLERS_AND_REPLACEMENTS
        .iter()
        .filter(|(filler, _)| hits.iter().any(|hit| hit.filler == *filler))
        .map(|(filler, instead)| format!("for `{filler}` {instead}"))
        .collect();
    instead.sort();
    format!(
        "{} filler words, up from {most}; rewrite those of your change: {}",
        hits.len(),
        instead.join("; ")
    )
}

fn fillers_by_directory(tree: &Tree) -> BTreeMap<String, Vec<FillerHit<'_>>> {
    let mut found: BTreeMap<String, Vec<FillerHit<'_>>> = BTreeMap::new();
    for (path, text) in tree.iter().filter(|(path, _)| *path != crate::types::TYPES_FILE) {
        let hits = find_fillers(path, text);
        if !hits.is_empty() {
            let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
            found.entry(directory.to_owned()).or_default().extend(hits);
        }
    }
    found
}

fn find_fillers<'a>(path: &'a str, text: &str) -> Vec<FillerHit<'a>> {
    let words = join_words(&prose_lines(path, text));
    let mut hits = Vec::new();
    for (filler, instead) in FILLERS_AND_REPLACEMENTS {
        let parts: Vec<&str> = filler.split(' ').collect();
        let found =
            words.windows(parts.len()).filter(|found| found.iter().map(|(_, word)| word).eq(parts.iter()));
        hits.extend(found.map(|found| FillerHit { path, line: found[0].0, filler, instead }));
    }
    hits.sort_by_key(|hit| hit.line);
    hits
}

/// The words of the text in lower case, each with its line, because a phrase may continue on the next line.
fn join_words(prose: &[(usize, String)]) -> Vec<(usize, String)> {
    let split = |(line, text): &(usize, String)| -> Vec<(usize, String)> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(|word| (*line, word.to_lowercase())).collect()
    };
    prose.iter().flat_map(split).collect()
}

/// The lines of comments or docs in a file, numbered from 1.
fn prose_lines(path: &str, text: &str) -> Vec<(usize, String)> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or(name, |(_, extension)| extension);
    match extension {
        "md" => markdown_prose_lines(text),
        "rs" => {
            let comments = Source::parse(text).comments;
            let lines = |comment: &super::source::CommentOrString| -> Vec<(usize, String)> {
                (comment.line..).zip(comment.text.lines().map(ToOwned::to_owned)).collect()
            };
            comments.iter().flat_map(lines).collect()
        }
        "sql" => comments_after_mark(text, "--"),
        "Makefile" | "Dockerfile" => comments_after_mark(text, "#"),
        extension if SLASH_COMMENT_EXTENSIONS.contains(&extension) => slash_comments(text),
        extension if HASH_COMMENT_EXTENSIONS.contains(&extension) => comments_after_mark(text, "#"),
        _ => Vec::new(),
    }
}

/// The lines of a Markdown text, with their numbers and without code.
fn markdown_prose_lines(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut prose = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push((index + 1, line.split('`').step_by(2).collect::<Vec<_>>().join(" code ")));
        }
    }
    prose
}

/// Finds comments: the rest of each line after a mark that begins the line or follows a space.
fn comments_after_mark(text: &str, mark: &str) -> Vec<(usize, String)> {
    let comment = |line: &str| {
        let at = line.match_indices(mark).map(|(at, _)| at);
        at.clone()
            .find(|at| line[..*at].chars().next_back().is_none_or(char::is_whitespace))
            .map(|at| line[at..].to_owned())
    };
    text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, comment(line)?))).collect()
}

/// Finds comments between `/*` and `*/`, between `<!--` and `-->`, and after `//`. A `//` after a colon is part of a URL.
fn slash_comments(text: &str) -> Vec<(usize, String)> {
    let mut end = None;
    let mut comments = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let begin = match end {
            Some(_) => Some(0),
            None => {
                let block = [("/*", "*/"), ("<!--", "-->")]
                    .into_iter()
                    .find_map(|(open, close)| line.find(open).map(|at| (at, close)));
                end = block.map(|(_, close)| close);
                let slashes =
                    line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
                block.map(|(at, _)| at).or(slashes)
            }
        };
        if let Some(begin) = begin {
            comments.push((index + 1, line[begin..].to_owned()));
        }
        if end.is_some_and(|close| line[begin.unwrap_or(0)..].contains(close)) {
            end = None;
        }
    }
    comments
}

fn read_ratchets(tree: &Tree) -> (BTreeMap<&str, usize>, Vec<Complaint>) {
    let (mut ratchets, mut complaints) = (BTreeMap::new(), Vec::new());
    let lines = tree.text(FILLER_RATCHETS).unwrap_or_default().lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').and_then(|(count, directory)| Some((directory, count.parse().ok()?))) {
            Some((directory, count)) if ratchets.insert(directory, count).is_none() => {}
            _ => complaints.push(Complaint::at_line(
                FILLER_RATCHETS,
                index + 1,
                "use `<count> <directory>`, once for a directory",
            )),
        }
    }
    (ratchets, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    fn filler_complaints(path: &str, text: &str, ratchets: &str) -> Vec<String> {
        run_rule(comments_name_the_actor, &[(path, text), (FILLER_RATCHETS, ratchets)])
    }

    #[test]
    fn a_filler_in_a_comment_or_in_docs_is_reported_with_its_replacement() {
        for (path, text) in [
            ("crates/a.rs", "fn f() {}\n/// Whoever asks.\n"),
            ("crates/a.rs", "\n// The client is\n// told so.\n"),
            ("docs/a.md", "# Title\nThe members are told.\n"),
            ("web/a.ts", "let a = 1;\nlet b = 2; // whatever\n"),
            ("web/a.svelte", "<p>\n<!-- for somebody\n-->\n"),
            ("web/a.css", "\n/* whatever */\n"),
            ("db/a.sql", "x;\n-- somebody\n"),
            ("deploy/a.yml", "a: 1\nb: 2 # whoever\n"),
        ] {
            let complaints = filler_complaints(path, text, "");
            assert!(complaints.len() == 1 && complaints[0].contains(":2: `"), "{path}: {complaints:?}");
        }
        let expected = "docs/a.md:1: `somebody`: name the actor: a user, a client, a member, an operator";
        assert_eq!(filler_complaints("docs/a.md", "somebody's", ""), [expected]);
    }

    #[test]
    fn a_filler_in_code_is_not_reported() {
        for (path, text) in [
            ("crates/a.rs", "fn is_told() { say(\"whoever\") }"),
            ("docs/a.md", "`whoever`\n```\nsomebody\n```\n"),
            ("web/a.ts", "open(\"https://whatever.example\");\n/* a */\nsomebody();"),
            ("web/a.json", "whatever"),
        ] {
            assert_eq!(filler_complaints(path, text, ""), [""; 0], "{path}");
        }
    }

    #[test]
    fn the_count_of_a_directory_only_goes_down() {
        let text = "Whoever. Whatever.\n";
        assert_eq!(filler_complaints("docs/a.md", text, "# why\n\n2 docs\n"), [""; 0]);
        let more = filler_complaints("docs/a.md", text, "1 docs");
        assert!(more.len() == 1 && more[0].starts_with("docs: 2 filler words, up from 1; "), "{more:?}");
        assert!(more[0].contains("for `whoever` name the actor"), "{more:?}");
        assert_eq!(
            filler_complaints("docs/sub/a.md", text, "2 docs").len(),
            2,
            "each directory has its own count"
        );
        assert_eq!(filler_complaints("a.md", "", "2 docs\n2 docs").len(), 1, "one line for a directory");
    }

    #[test]
    fn a_ratchet_that_could_be_lower_is_a_hint() {
        let files = [("docs/a.md", "whoever"), (FILLER_RATCHETS, "3 docs\n1 gone")];
        let hints: Vec<String> =
            ratchets_to_lower(&Tree::from_texts(&files)).iter().map(ToString::to_string).collect();
        assert_eq!(
            hints,
            [
                "crates/xtask/fillers.txt: docs has 1 of 3 fillers: lower it to 1",
                "crates/xtask/fillers.txt: gone has 0 of 1 fillers: remove its line",
            ]
        );
    }
}
