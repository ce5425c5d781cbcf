//! Short texts with a rule each. NUL (U+0000) is refused in all of them: PostgreSQL cannot store it
//! (PostgreSQL manual, section 8.3), and what one store keeps every store must keep.

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
            /// Checks the rule of this text; the error says what was expected.
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

fn printable(s: &str) -> bool {
    !s.is_empty() && !s.chars().any(char::is_control)
}

text!(
    /// What a person writes: any Unicode but NUL. Its length is bounded by [`crate::Limits::text`].
    Text, max usize::MAX, |s| !s.contains('\0'), "text without the character U+0000"
);
text!(
    /// A sender's idempotency key: 1–128 bytes, no control characters. Unique per sender, over all
    /// conversations.
    Key, max 128, printable, "1 to 128 bytes without control characters"
);
text!(
    /// A room's title: 1–200 bytes, no control characters.
    Title, max 200, printable, "1 to 200 bytes without control characters"
);
text!(
    /// A reaction: 1–64 bytes (the longest emoji sequences of Unicode 17 take 35), no control
    /// characters and no spaces.
    Emoji, max 64, |s| printable(s) && !s.contains(char::is_whitespace),
    "1 to 64 bytes without spaces or control characters"
);
text!(
    /// A client's own stable name for itself: 1–64 bytes, no control characters.
    Device, max 64, printable, "1 to 64 bytes without control characters"
);
