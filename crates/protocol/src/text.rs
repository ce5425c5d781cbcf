//! Text types, each with its rule. None may contain NUL (U+0000): PostgreSQL cannot store it (PostgreSQL manual, section
//! 8.3), and both stores must accept the same texts.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, max $max:expr, $check:expr, $expected:expr) => {
        $(#[$doc])*
        #[cfg_attr(feature = "typescript", derive(ts_rs::TS), ts(type = "string"))]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The most bytes.
            pub const MAX_BYTES: usize = $max;

            /// Checks the rule of this type; the error says what was expected.
            pub fn parse(s: impl Into<String>) -> Result<Self, &'static str> {
                let s = s.into();
                let check: fn(&str) -> bool = $check;
                if s.len() <= $max && check(&s) { Ok(Self(s)) } else { Err($expected) }
            }
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = &'static str;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Self::parse(s)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(d)?).map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": concat!("It must be ", $expected, ".") })
            }
        }
    };
}

/// The beginning of a text, at most so many bytes. A character is not split.
pub fn truncated(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Whether a text is invisible: it is empty, or has only white space, controls, and characters that format or join others
/// (Unicode 17: White_Space, Default_Ignorable_Code_Point, general category Cf, and the blank of Braille).
pub fn is_blank(s: &str) -> bool {
    s.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// Whether a character shows nothing, and takes no or little space.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn is_printable(s: &str) -> bool {
    !s.is_empty() && !s.chars().any(char::is_control)
}

text!(
    /// The text of a message: any Unicode but NUL. [`crate::Limits::text`] bounds its length.
    Text, max usize::MAX, |s| !s.contains('\0'), "text without the character U+0000"
);
text!(
    /// A sender's idempotency key: 1–128 bytes, no control characters. Unique per sender, over all
    /// conversations.
    Key, max 128, is_printable, "1 to 128 bytes without control characters"
);
text!(
    /// A room's title: 1–200 bytes, no control characters.
    Title, max 200, is_printable, "1 to 200 bytes without control characters"
);
text!(
    /// A user's name for people: 1–200 bytes, no control characters, not only spaces. Names are not unique.
    PersonName, max 200, |s| is_printable(s) && !is_blank(s),
    "1 to 200 bytes that show something, without control characters"
);
text!(
    /// A user's picture: the id of a file (`f_…`), or an `https:` URL. At most 2,048 bytes.
    Avatar, max 2_048, is_avatar, "the id of a file, or an https: URL of at most 2,048 bytes"
);
text!(
    /// A reaction: 1–64 bytes (the longest emoji sequences of Unicode 17 take 35), no control
    /// characters and no spaces.
    Emoji, max 64, |s| is_printable(s) && !s.contains(char::is_whitespace),
    "1 to 64 bytes without spaces or control characters"
);
text!(
    /// A stable name that a client chose for its device: 1–64 bytes, no control characters.
    Device, max 64, is_printable, "1 to 64 bytes without control characters"
);

fn is_avatar(s: &str) -> bool {
    let file = s.strip_prefix("f_").filter(|id| (1..=64).contains(&id.len()));
    file.is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)))
        || s.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && is_printable(rest))
}

/// Selects the coloured form of an emoji (Unicode Technical Standard 51, section 4.3).
const VARIATION_SELECTOR_16: char = '\u{fe0f}';

impl Emoji {
    /// The reaction without U+FE0F. Some keyboards write it and others do not, so both forms are one reaction.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self(self.0.replace(VARIATION_SELECTOR_16, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_invisible_characters_is_blank() {
        for blank in [
            "",
            " ",
            "\n\t\r",
            "\u{a0}",
            "\u{1680}",
            "\u{2003}",
            "\u{2028}",
            "\u{3000}",
            "\u{200b}",
            "\u{200d}\u{200c}",
            "\u{feff}",
            "\u{2060}",
            "\u{202e} \u{202c}",
            "\u{ad}",
            "\u{fe0f}",
            "\u{3164}",
            "\u{e0020}",
            "\u{7}",
            "\u{85}",
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for shown in [".", " x ", "\u{200b}a", "\u{1f44d}", "\u{2764}\u{fe0f}", "\u{301}", "\u{661}"] {
            assert!(!is_blank(shown), "{shown:?}");
        }
    }

    #[test]
    fn an_avatar_must_be_a_file_or_an_https_url() {
        for avatar in ["f_1a-B_", "https://images.example.com/a.png?s=64"] {
            assert!(Avatar::parse(avatar).is_ok(), "{avatar}");
        }
        let long = format!("https://a.example/{}", "x".repeat(2_048));
        for wrong in ["", "f_", "f_a/b", "http://a.example/a.png", "https://", "data:image/png,x", &long] {
            assert!(Avatar::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn folding_removes_the_variation_selector_only() {
        let folded = |emoji: &str| Emoji::parse(emoji).expect("an emoji").folded().to_string();
        assert_eq!(folded("\u{1f44d}\u{fe0f}"), "\u{1f44d}");
        assert_eq!(folded("\u{2764}\u{fe0f}\u{200d}\u{1f525}"), folded("\u{2764}\u{200d}\u{1f525}"));
        assert_ne!(folded("\u{1f44d}\u{1f3fd}"), folded("\u{1f44d}"));
    }
}
