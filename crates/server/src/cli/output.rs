//! Lines to a person or a pipe.

use std::io::{ErrorKind, Write};

use anyhow::Context;

/// Nobody reads stdout any more.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Writes a line of data to stdout, at once: a pipe would hold it back. Fails with [`Closed`] if
/// nobody reads it any more.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("cannot write to stdout"),
    }
}

/// Says something to the person on stderr; if that fails there is nobody to tell.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A text of somebody else's for one line of a terminal: control characters, which could move the
/// cursor or recolour what follows, are shown escaped.
pub(super) fn printable(text: &str) -> String {
    // Bidirectional overrides (UAX #9) are no controls by category, but reorder what surrounds them.
    let hostile = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nobody_else_moves_the_cursor() {
        assert_eq!(printable("a\nb\u{1b}[2J\u{9b}\u{202e}é"), "a\\nb\\u{1b}[2J\\u{9b}\\u{202e}é");
    }
}
