//! Reads secrets from files and finds invisible mistakes in them.

use std::io;
use std::path::Path;

use switchboard_protocol::is_blank;

use super::ConfigError;

/// The byte order mark that some editors write at the start of UTF-8 text.
pub(super) const BOM: char = '\u{feff}';

/// Reads a UTF-8 file. The error names the encoding problem.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = std::fs::read(path)?;
    // UTF-16 without a byte order mark has a zero byte for every ASCII character.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(io::Error::other("it is UTF-16 or not text; save it as UTF-8"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8; save it as UTF-8"))
}

/// Restores the line breaks of a PEM text on one line. It has `\\n` instead, because some environments do not allow line breaks in
/// a variable.
pub(super) fn with_line_breaks(pem: &str) -> String {
    if pem.contains('\n') { pem.to_owned() } else { pem.replace("\\n", "\n") }
}

/// Refuses invisible characters in a secret, because the issuer's copy probably lacks them and then every token is refused.
pub(super) fn check_visible(secret: &str) -> Result<(), ConfigError> {
    let is_invisible = |c: Option<char>| c.is_some_and(|c| is_blank(c.encode_utf8(&mut [0; 4])));
    let message = if secret.starts_with(BOM) {
        "the secret begins with a byte order mark (U+FEFF); save it as UTF-8 without one"
    } else if secret.contains('\0') {
        "the secret contains zero bytes; if it is UTF-16, save it as UTF-8"
    } else if secret.contains(['\n', '\r']) {
        "the secret has several lines; a secret is one line, and a key in PEM goes into `public_key`"
    } else if is_invisible(secret.chars().next()) || is_invisible(secret.chars().next_back()) {
        "the secret begins or ends with white space or an invisible character; remove it here and at the token issuer"
    } else if secret.contains(char::is_control) {
        "the secret contains control characters; use printable text"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(message))
}
