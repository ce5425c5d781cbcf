//! Folds a text, so that the same word has one form however it is written: without differences of case, width, accents, look-alike
//! characters and invisible ones.
//!
//! A folded text has a space before and after each word. So a search for ` word ` finds whole words, in one pass over the text.

use rustc_hash::FxHashMap;
use switchboard_protocol::is_invisible;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::{canonical_combining_class, is_combining_mark};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use unicode_security::skeleton;

/// Stands for a small `l`, until the whole word is known.
const SMALL_L: char = '\u{1}';

/// Stands for a capital `I` after a small letter, until the whole word is known.
const LATE_CAPITAL_I: char = '\u{2}';

/// How characters are read that have the shape of several letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// As the letters that they are: `1` is an `l`.
    AsWritten,
    /// As the other letter of this shape: `1` is an `i`, the `l` of `SHlT`, too, and the `I` of `heIIo` is an `l`.
    ByShape,
}

/// A folded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folded {
    /// The words, with a space before and after each.
    pub(super) text: String,
    /// Whether the other reading has another result.
    pub(super) is_ambiguous: bool,
}

/// Folds a text.
pub(super) fn fold(text: &str, reading: Reading) -> Folded {
    let mut folder = Folder::new(reading, text.len());
    if text.is_ascii() {
        text.chars().for_each(|c| folder.push(c));
    } else {
        // The marks are dropped between the two, because the second one joins the marks of kana and Hangul to their letters again.
        let text = text.chars().map(|c| if is_phrase(c) { ' ' } else { c });
        text.nfkd().filter(|c| !is_dropped_mark(*c)).nfc().for_each(|c| folder.push(c));
    }
    folder.finish()
}

/// Whether a character is a whole phrase, of 18 and of 8 letters. A text of nothing else would take several times as long as any
/// other.
fn is_phrase(c: char) -> bool {
    matches!(c, '\u{fdfa}' | '\u{fdfb}')
}

struct Folder {
    reading: Reading,
    /// The letters that are folded already, because the search for a look-alike is slow.
    letters: FxHashMap<char, String>,
    out: String,
    /// The word that has begun.
    word: String,
    has_letter: bool,
    has_capital: bool,
    has_small_letter: bool,
    is_ambiguous: bool,
}

impl Folder {
    fn new(reading: Reading, capacity: usize) -> Self {
        let mut out = String::with_capacity(capacity + 2);
        out.push(' ');
        Self {
            reading,
            letters: FxHashMap::default(),
            out,
            word: String::new(),
            has_letter: false,
            has_capital: false,
            has_small_letter: false,
            is_ambiguous: false,
        }
    }

    fn push(&mut self, c: char) {
        match c {
            'l' => self.push_letter(SMALL_L),
            'I' if self.has_small_letter => self.push_letter(LATE_CAPITAL_I),
            'a'..='z' | 'A'..='Z' => {
                self.note_case(c);
                self.push_letter(c.to_ascii_lowercase());
            }
            '0'..='9' => self.word.push(c),
            // They are as wide as a space.
            '\u{115f}' | '\u{1160}' | '\u{2800}' => self.end_word(),
            c if is_invisible(c) || is_skin_tone(c) || (c.is_control() && !c.is_whitespace()) => {}
            '\0'..='\x7f' => self.end_word(),
            c if is_written_without_spaces(c) => self.push_alone(c),
            c => self.push_beyond_ascii(c),
        }
    }

    fn push_letter(&mut self, letter: char) {
        self.word.push(letter);
        self.has_letter = true;
    }

    fn push_beyond_ascii(&mut self, c: char) {
        if let Some(letter) = enclosed_letter(c) {
            self.push_letter(letter);
        } else if c.is_alphanumeric() {
            self.note_case(c);
            self.has_letter = true;
            let folded = self.letters.entry(c).or_insert_with(|| folded_letter(c));
            self.word.push_str(folded);
        } else if let Some(latin) = look_alike(c.encode_utf8(&mut [0; 4])) {
            self.has_letter = true;
            self.word.push_str(&latin);
        } else if c.general_category() == GeneralCategory::OtherSymbol {
            self.push_alone(c);
        } else {
            self.end_word();
        }
    }

    fn note_case(&mut self, c: char) {
        self.has_capital |= c.is_uppercase();
        self.has_small_letter |= c.is_lowercase();
    }

    /// Adds a character that is a word of its own, such as an ideograph or an emoji.
    fn push_alone(&mut self, c: char) {
        self.end_word();
        self.out.push(c);
        self.out.push(' ');
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.write_word();
        }
        self.word.clear();
        (self.has_letter, self.has_capital, self.has_small_letter) = (false, false, false);
    }

    /// Writes the word. Digits stand for letters beside letters only, so that 101 is a number.
    fn write_word(&mut self) {
        let is_by_shape = self.reading == Reading::ByShape;
        let is_in_capitals = self.has_capital && !self.has_small_letter;
        for c in self.word.chars() {
            let (letter, other) = match c {
                '0' if self.has_letter => ('o', 'o'),
                '1' if self.has_letter => ('l', 'i'),
                SMALL_L if is_in_capitals => ('l', 'i'),
                SMALL_L => ('l', 'l'),
                LATE_CAPITAL_I => ('i', 'l'),
                c => (c, c),
            };
            self.is_ambiguous |= letter != other;
            self.out.push(if is_by_shape { other } else { letter });
        }
        self.out.push(' ');
    }

    fn finish(mut self) -> Folded {
        self.end_word();
        Folded { text: self.out, is_ambiguous: self.is_ambiguous }
    }
}

/// Whether a character is a mark on another one: an accent, a line through it, a circle around it. Vowel signs, as in Devanagari
/// and Thai, are letters and stay. The marks of kana make other letters, and stay.
fn is_dropped_mark(c: char) -> bool {
    let is_kana_mark = matches!(c, '\u{3099}' | '\u{309a}');
    !is_kana_mark
        && is_combining_mark(c)
        && (canonical_combining_class(c) != 0 || c.general_category() == GeneralCategory::EnclosingMark)
}

/// The form of a letter or digit: the Latin one that looks like it in either case, or itself.
fn folded_letter(c: char) -> String {
    let capital: String = c.to_uppercase().collect();
    // By way of the upper case, because only so `ß` meets `SS` (Unicode 17, section 3.13.3).
    let folded = capital.to_lowercase();
    // Katakana and Hangul look like other characters that nobody writes for them.
    if folded.is_ascii() || matches!(c, '\u{30a0}'..='\u{30ff}' | '\u{ac00}'..='\u{d7a3}') {
        return folded;
    }
    let written = c.encode_utf8(&mut [0; 4]).to_owned();
    let latin = look_alike(&folded).or_else(|| look_alike(&written)).or_else(|| look_alike(&capital));
    latin.unwrap_or_else(|| {
        let prototype: String =
            skeleton(&folded).filter(|c| c.is_alphanumeric() && !is_dropped_mark(*c)).collect();
        if prototype.is_empty() { folded } else { prototype }
    })
}

/// The Latin letters or digits that look like a text (Unicode Technical Standard 39, section 4).
fn look_alike(text: &str) -> Option<String> {
    let mut latin = String::new();
    for c in skeleton(text).filter(|c| !is_dropped_mark(*c)) {
        if !c.is_ascii_alphanumeric() {
            return None;
        }
        latin.push(c.to_ascii_lowercase());
    }
    Some(latin).filter(|latin| !latin.is_empty())
}

/// The letter in a square, a filled circle or a flag. Those in an empty circle are decomposed before.
fn enclosed_letter(c: char) -> Option<char> {
    let first = match c {
        '\u{1f150}'..='\u{1f169}' => '\u{1f150}',
        '\u{1f170}'..='\u{1f189}' => '\u{1f170}',
        '\u{1f1e6}'..='\u{1f1ff}' => '\u{1f1e6}',
        _ => return None,
    };
    char::from_u32(u32::from('a') + (u32::from(c) - u32::from(first)))
}

fn is_skin_tone(c: char) -> bool {
    matches!(c, '\u{1f3fb}'..='\u{1f3ff}')
}

/// Whether every character of its script is a word for the default rules of Unicode Standard Annex 29: Thai, Lao, Burmese, Khmer,
/// hiragana and ideographs. Words of these scripts are found wherever their characters stand together.
fn is_written_without_spaces(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}'
        | '\u{3041}'..='\u{309f}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folded(text: &str) -> String {
        fold(text, Reading::AsWritten).text
    }

    #[test]
    fn one_word_has_one_form_however_it_is_written() {
        for text in [
            "Idiot",
            "IDIOT",
            "ｉｄｉｏｔ",
            "ＩＤＩＯＴ",
            "іdіоt",
            "ІDІОТ",
            "і\u{200d}dі\u{200b}оt",
            "id\u{ad}iot",
            "i\u{336}d\u{336}i\u{336}o\u{336}t\u{336}",
            "ïdíöt",
            "i\u{20dd}diot",
            "𝖎𝖉𝖎𝖔𝖙",
            "ⓘⓓⓘⓞⓣ",
            "🅘🅓🅘🅞🅣",
            "🅸🅳🅸🅾🆃",
            "🇮🇩🇮🇴🇹",
            "id\u{fe0f}iot",
            "id\u{e0061}iot",
            "id\u{34f}iot",
            "ı\u{200c}dıοτ",
            "idi0t",
            "\u{202e}idiot",
        ] {
            assert_eq!(folded(text), " idiot ", "{text:?}");
        }
        for (text, form) in [
            ("Straße, STRASSE", " strasse strasse "),
            ("fuсk fucк FUСК", " fuck fuck fuck "),
            ("don't; a_b", " don t a b "),
            ("101 a101 10 b00b", " 101 alol 10 boob "),
            ("傻逼 x傻", " 傻 逼 x 傻 "),
            ("このバカ野郎", " こ の バカ 野 郎 "),
            ("ばか はか", " ば か は か "),
            ("시발 \u{1109}\u{1175}발", " 시발 시발 "),
            ("👍🏽👎", " 👍 👎 "),
            ("a\u{3164}b\u{2800}c", " a b c "),
            ("!?—", " "),
            ("a\u{fdfa}b", " a b "),
            ("", " "),
        ] {
            assert_eq!(folded(text), form, "{text:?}");
        }
        for (text, other) in [("दीपा", "दुपा"), ("ばか", "はか"), ("시발", "시바"), ("محمد", "محمود")]
        {
            assert_ne!(folded(text), folded(other), "{text}");
        }
    }

    #[test]
    fn a_shape_of_two_letters_is_read_both_ways() {
        for (text, other) in
            [("SHlT", " shit "), ("sh1t", " shit "), ("SH1T", " shit "), ("asshoIe", " asshole ")]
        {
            assert!(fold(text, Reading::AsWritten).is_ambiguous, "{text}");
            assert_eq!(fold(text, Reading::ByShape).text, other);
        }
        for text in ["shlt", "Fall", "101", "SHIT", "Iris"] {
            let (one, other) = (fold(text, Reading::AsWritten), fold(text, Reading::ByShape));
            assert!(!one.is_ambiguous && one == other, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_folded_text_is_bounded_and_its_words_have_one_space_between_them(text in any::<String>()) {
            for reading in [Reading::AsWritten, Reading::ByShape] {
                let Folded { text: folded, is_ambiguous } = fold(&text, reading);
                // The longest decomposition has 18 bytes of 3.
                prop_assert!(folded.len() <= 2 + 8 * text.len(), "{folded:?}");
                prop_assert!(folded.starts_with(' ') && folded.ends_with(' ') && !folded.contains("  "), "{folded:?}");
                prop_assert!(!folded.contains([SMALL_L, LATE_CAPITAL_I]), "{folded:?}");
                prop_assert!(is_ambiguous || folded == fold(&text, Reading::AsWritten).text);
            }
        }

        #[test]
        fn joiners_case_and_width_change_nothing(word in "[a-hj-km-z]{1,12}", at in 0..12_usize) {
            let form = folded(&word);
            let at = at.min(word.len());
            let (start, end) = word.split_at(at);
            let wide: String = word.chars().filter_map(|c| char::from_u32(u32::from(c) + 0xfee0)).collect();
            for other in [
                word.to_uppercase(), wide, format!("{start}\u{200d}{end}"), format!("{start}\u{ad}{end}"),
                format!("{word}\u{301}"),
            ] {
                prop_assert_eq!(folded(&other), form.clone(), "{:?}", other);
            }
        }
    }
}
