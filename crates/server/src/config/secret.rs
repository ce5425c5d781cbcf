//! Texts from files, and what is wrong with a secret that looks right.

use std::io;
use std::path::Path;

use switchboard_protocol::is_blank;

use super::ConfigError;

/// What some editors write before a text in UTF-8.
pub(super) const BOM: char = '\u{feff}';

/// Reads a text file; the error says what to do about its encoding.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    // Without a byte order mark, every other byte of a text in ASCII is zero.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(io::Error::other("it is in UTF-16, or no text; save it as UTF-8"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8; save it as UTF-8"))
}

/// A PEM in one line, as it is written into variables that cannot hold line breaks, with `\\n` in their place.
pub(super) fn with_line_breaks(pem: &str) -> String {
    if pem.contains('\n') { pem.to_owned() } else { pem.replace("\\n", "\n") }
}

/// Refuses what nobody sees in a secret: a copy of it elsewhere would hardly have the same, and then no token is good.
pub(super) fn check_visible(secret: &str) -> Result<(), ConfigError> {
    let shows_nothing = |c: Option<char>| c.is_some_and(|c| is_blank(c.encode_utf8(&mut [0; 4])));
    let message = if secret.starts_with(BOM) {
        "the secret begins with a byte order mark (U+FEFF); save it as UTF-8 without one"
    } else if secret.contains('\0') {
        "the secret has zero bytes; it may be in UTF-16, then save it as UTF-8"
    } else if secret.contains(['\n', '\r']) {
        "the secret has several lines; it is one, and a key in PEM is a `public_key`"
    } else if shows_nothing(secret.chars().next()) || shows_nothing(secret.chars().next_back()) {
        "the secret begins or ends with white space or an invisible character; take it away, there and where tokens are made"
    } else if secret.contains(char::is_control) {
        "the secret has control characters; write it as text"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(message))
}
