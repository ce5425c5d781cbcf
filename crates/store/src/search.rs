//! How users are found by name: a name is folded and cut into words, and a search compares the beginning of each.
//!
//! A change of the folding needs a migration that writes the table of words again; `check` compares it with the names.

use std::collections::BTreeSet;

use switchboard_protocol::{UserId, truncated};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_segmentation::UnicodeSegmentation as _;

/// The most bytes of a stored word. A longer query is cut to as many.
const MAX_WORD_BYTES: usize = 64;

/// The most words of a name by which it is found.
const MAX_WORDS: usize = 16;

/// A text without differences of case, accents and width. Marks that only modify a letter go; vowel signs, as in Devanagari and
/// Thai, are letters and stay. The upper case is taken first, because only so `ß` meets `SS` (Unicode 17, section 3.13.3).
pub(crate) fn fold(text: &str) -> String {
    // A word begins after an apostrophe, too, as in O'Brien.
    let text = text.chars().map(|c| if matches!(c, '\'' | '\u{2019}' | '\u{2bc}') { ' ' } else { c });
    let folded = text.flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    folded
        .nfkd()
        .filter(|c| canonical_combining_class(*c) == 0 || !is_combining_mark(*c))
        .flat_map(char::to_lowercase)
        .collect()
}

/// What the table of words has of a user: the folded name from each of its words on, so that a query of several words finds it,
/// and the folded id. In scripts without spaces, every character begins a word (Unicode Standard Annex 29).
pub(crate) fn words(user: &UserId, name: Option<&str>) -> BTreeSet<String> {
    let name = name.map(fold).unwrap_or_default();
    let words = name
        .unicode_word_indices()
        .take(MAX_WORDS)
        .map(|(at, _)| truncated(&name[at..], MAX_WORD_BYTES).to_owned());
    words.chain([truncated(&fold(user.as_str()), MAX_WORD_BYTES).to_owned()]).collect()
}

/// The words from the first bound on, and before the second, match a query.
pub(crate) fn word_range(query: &str) -> (String, String) {
    let folded = fold(query);
    let from = truncated(folded.trim(), MAX_WORD_BYTES).to_owned();
    let to = format!("{from}{}", char::MAX);
    (from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches_name(query: &str, name: &str) -> bool {
        let (from, to) = word_range(query);
        let user = UserId::parse("usr_8f3a21").expect("an id");
        words(&user, Some(name)).iter().any(|word| (&from..&to).contains(&word))
    }

    #[test]
    fn a_name_is_found_by_the_beginning_of_each_word_in_every_script() {
        for (query, name) in [
            ("ana", "Ana María López"),
            ("maria lo", "Ana María López"),
            ("LÓP", "ana maria lopez"),
            ("strasse", "Jürgen Straße"),
            ("STRASS", "Jürgen Straße"),
            ("οδυσσευς", "ΟΔΥΣΣΕΥΣ"),
            ("istanbul", "İstanbul"),
            ("иван", "Мария Иванова"),
            ("обриен", "О'Обриен"),
            ("小明", "王小明"),
            ("기", "김민준"),
            ("محمد", "مُحَمَّد علي"),
            ("दीप", "दीपा शर्मा"),
            ("สม", "สมชาย"),
            ("ana", "Ａｎａ"),
            ("usr_8F", "Ana"),
        ] {
            assert!(
                matches_name(query, name),
                "{query} finds {name}: {:?}",
                words(&UserId::parse("u").expect("id"), Some(name))
            );
        }
        for (query, name) in
            [("ria", "Ana María"), ("lopez ana", "Ana López"), ("दु", "दीपा"), ("8f3a", "Ana")]
        {
            assert!(!matches_name(query, name), "{query} does not find {name}");
        }
    }

    #[test]
    fn the_stored_search_words_of_a_name_are_bounded() {
        let user = UserId::parse("u").expect("an id");
        for name in ["a ".repeat(100), "ﷺ".repeat(66), "é".repeat(100), "王".repeat(66)] {
            let words = words(&user, Some(&name));
            assert!(
                words.len() <= MAX_WORDS + 1 && words.iter().all(|word| word.len() <= MAX_WORD_BYTES),
                "{words:?}"
            );
        }
    }
}
