//! Output to stdout and stderr.

use std::io::{ErrorKind, Write};

use anyhow::Context;

/// The error of a write to stdout after its reader has closed the pipe.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(super) struct StdoutClosed;

/// Writes a line of data to stdout and flushes it, because stdout buffers when it is a pipe.
///
/// # Errors
/// [`StdoutClosed`] if the reader has closed stdout.
pub(super) fn print_line(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => other.context("cannot write to stdout"),
    }
}

/// Writes a line for a person to stderr. A failure is ignored because it could not be reported.
pub(super) fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Escapes untrusted text for one line of a terminal: control characters could move the cursor or recolour what follows.
pub(super) fn printable(text: &str) -> String {
    // Bidirectional overrides (UAX #9) are not in the category of controls, but reorder the text around them.
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
    fn untrusted_text_cannot_move_the_cursor() {
        assert_eq!(printable("a\nb\u{1b}[2J\u{9b}\u{202e}é"), "a\\nb\\u{1b}[2J\\u{9b}\\u{202e}é");
    }
}
