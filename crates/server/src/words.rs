//! A list of words that are not allowed: how it is written, and whether a text has one of them.

mod fold;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use rustc_hash::FxHashSet;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

use self::fold::{Folded, Reading, fold};

/// The most entries of a list. The automaton of so many words has a few megabytes.
const MAX_ENTRIES: usize = 10_000;

/// The longest entry in bytes. It bounds the automaton.
const MAX_ENTRY_BYTES: usize = 100;

/// The largest file in bytes: the most entries, and as much again for comments.
pub(crate) const MAX_FILE_BYTES: u64 = 2 * (MAX_ENTRIES * (MAX_ENTRY_BYTES + 1)) as u64;

/// Why a list cannot be used. The message never repeats an entry, because it is logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct BadLine {
    line: usize,
    reason: &'static str,
}

/// A list of words, ready to search texts.
#[derive(Debug)]
pub(crate) struct WordList {
    /// Finds each entry in a folded text. A whole word has a space before and after it there.
    entries: AhoCorasick,
    /// Words that are allowed although an entry finds them, in lower case and with their accents.
    allowed: FxHashSet<String>,
}

/// An entry.
enum Entry {
    /// What is found in a folded text.
    Refused(String),
    /// A word that is allowed.
    Allowed(String),
}

impl WordList {
    /// Reads a list: an entry on each line, `#` before a comment.
    ///
    /// # Errors
    /// A line is no entry, or there are too many.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadLine> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let (mut refused, mut allowed) = (Vec::new(), FxHashSet::default());
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let bad = |reason| BadLine { line: at + 1, reason };
            let line = std::str::from_utf8(line).map_err(|_| bad("it is not UTF-8"))?.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if refused.len() + allowed.len() == MAX_ENTRIES {
                return Err(bad("a list has at most 10,000 entries"));
            }
            match Entry::parse(line).map_err(bad)? {
                Entry::Refused(pattern) => refused.push(pattern),
                Entry::Allowed(word) => {
                    allowed.insert(word);
                }
            }
        }
        let entries = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(&refused);
        let too_large = |_| BadLine { line: 1, reason: "the list is too large" };
        Ok(Self { entries: entries.map_err(too_large)?, allowed })
    }

    /// How many entries find something.
    pub(crate) fn len(&self) -> usize {
        self.entries.patterns_len()
    }

    /// Whether a text has one of the words. It takes as long as the text has bytes, however many words there are.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        self.is_found(text) && (self.allowed.is_empty() || self.is_found(&self.without_allowed(text)))
    }

    fn is_found(&self, text: &str) -> bool {
        let Folded { text: folded, is_ambiguous } = fold(text, Reading::AsWritten);
        self.entries.is_match(&folded)
            || (is_ambiguous && self.entries.is_match(&fold(text, Reading::ByShape).text))
    }

    /// The text without the words that are allowed.
    fn without_allowed(&self, text: &str) -> String {
        let text: String = text.nfc().collect();
        let words = text.split_inclusive(|c| !is_in_word(c)).map(|piece| {
            let word = piece.trim_end_matches(|c| !is_in_word(c));
            if self.allowed.contains(&word.to_lowercase()) { " " } else { piece }
        });
        words.collect()
    }
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c)
}

impl Entry {
    fn parse(line: &str) -> Result<Self, &'static str> {
        if line.len() > MAX_ENTRY_BYTES {
            return Err("an entry has at most 100 bytes");
        }
        if let Some(word) = line.strip_prefix('!') {
            let word: String = word.trim_start().nfc().collect();
            if word.is_empty() || !word.chars().all(is_in_word) {
                return Err("after `!` is one word that is allowed");
            }
            return Ok(Self::Allowed(word.to_lowercase()));
        }
        let (begins, rest) = line.strip_prefix('*').map_or((true, line), |rest| (false, rest));
        let (ends, word) = rest.strip_suffix('*').map_or((true, rest), |rest| (false, rest));
        if word.contains('*') {
            return Err("`*` is at the beginning or at the end of an entry");
        }
        let folded = fold(word, Reading::AsWritten).text;
        let trimmed = folded.trim_matches(' ');
        if trimmed.is_empty() {
            return Err("an entry has a letter, a digit or an emoji");
        }
        let space = |is_whole| if is_whole { " " } else { "" };
        Ok(Self::Refused(format!("{}{trimmed}{}", space(begins), space(ends))))
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use tokio::time::Instant;

    use super::*;

    fn list(text: &str) -> WordList {
        WordList::parse(text.as_bytes()).expect("a list")
    }

    #[test]
    fn whole_words_are_found_and_parts_of_words_are_not() {
        let words =
            list("\u{feff}# rude\r\n\r\ncunt\r\nass\nbad*\n*gate\n*xyz*\nkill yourself\n🖕\n傻逼\nсор\n");
        for text in [
            "cunt",
            "you CUNT!",
            "cunt's",
            "a.cunt.b",
            "_cunt_",
            "badly",
            "BAD",
            "watergate",
            "Gate",
            "axyzb",
            "kill, yourself",
            "KILL\n\nYOURSELF",
            "ok🖕🏽ok",
            "你傻逼吗",
            "傻 逼",
            "сunt",
            "аss",
            "c\u{200b}u\u{200d}n\u{ad}t",
            "cu\u{300}nt",
            "ｃｕｎｔ",
            "cop",
        ] {
            assert!(words.is_in(text), "{text:?}");
        }
        for text in [
            "Scunthorpe",
            "class",
            "assess",
            "embassy",
            "not so abad",
            "gates",
            "xy z",
            "kill it yourself",
            "skill yourself",
            "傻",
            "piano",
            "",
            " ",
            "cun t",
            "👍",
        ] {
            assert!(!words.is_in(text), "{text:?}");
        }
        assert_eq!(words.len(), 9);
    }

    #[test]
    fn an_allowed_word_is_not_found_and_the_words_beside_it_are() {
        let words = list("*cunt*\nano\n!Scunthorpe\n! año\n");
        for text in ["Scunthorpe", "SCUNTHORPE.", "feliz año", "an\u{303}o nuevo"] {
            assert!(!words.is_in(text), "{text}");
        }
        for text in ["Scunthorpe cunt", "Scunthorpes", "ano", "año ano", "S\u{441}unthorpe"] {
            assert!(words.is_in(text), "{text}");
        }
    }

    #[test]
    fn a_line_that_is_no_entry_is_named_by_its_number_alone() {
        for (bytes, line, words) in [
            (&b"ok\nb*d\n"[..], 2, "`*` is at"),
            (b"# x\n\n*\n", 3, "a letter"),
            (b"...", 1, "a letter"),
            (b"ok\n\xff\n", 2, "UTF-8"),
            (b"!two words", 1, "one word"),
            (&[b'a'; MAX_ENTRY_BYTES + 1], 1, "100 bytes"),
            ("a\n".repeat(MAX_ENTRIES + 1).as_bytes(), MAX_ENTRIES + 1, "10,000"),
        ] {
            let error = WordList::parse(bytes).expect_err("a bad line").to_string();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(words), "{error}");
        }
    }

    /// A list of the greatest length, of words that share their beginnings.
    fn long_list() -> WordList {
        let words: Vec<String> =
            (0..MAX_ENTRIES).map(|n| format!("{}{n}*", "word".repeat(1 + n % 20))).collect();
        list(&words.join("\n"))
    }

    #[test]
    fn the_longest_list_is_bounded() {
        let words = long_list();
        assert_eq!(words.len(), MAX_ENTRIES);
        let bytes = words.entries.memory_usage();
        assert!(bytes < 16 << 20, "{bytes} bytes");
        assert!(words.is_in("ａ wordword1x"));
    }

    /// Prints what a search costs: `cargo test … words::tests::costs -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn costs() {
        let (short, long) = (list("cunt\nass\n"), long_list());
        for (name, text) in [
            ("short ASCII", "see you tomorrow at ten, and bring the papers".to_owned()),
            ("16 KiB ASCII", "wordword ".repeat(1_820)),
            ("16 KiB Cyrillic", "добрый день ".repeat(780)),
            ("16 KiB Hangul", ('\u{ac00}'..).take(5_400).collect()),
            ("16 KiB of U+3316", "\u{3316}".repeat(5_400)),
            ("16 KiB of marks", "a\u{301}\u{336}".repeat(3_200)),
        ] {
            for (list_name, words) in [("2 words", &short), ("10,000 words", &long)] {
                let started = Instant::now();
                let rounds = 100;
                for _ in 0..rounds {
                    black_box(words.is_in(black_box(&text)));
                }
                println!("{name}, {list_name}: {:?}", started.elapsed() / rounds);
            }
        }
    }
}
