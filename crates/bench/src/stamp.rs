//! What a message of a measurement says: which one it is and when it was due, so that whoever gets it can tell
//! whether one is missing, came twice or out of order, and how late it is.

use memchr::memmem;

/// It stands unchanged in JSON and in XML.
const MARK: &str = "~~";
const NUMBER: usize = 12;
const DUE: usize = 16;

/// A stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of its sender, counted from 0.
    pub(crate) number: u64,
    /// When it was to be sent, in nanoseconds since the run began.
    pub(crate) due: u64,
}

impl Stamp {
    /// A text of `len` bytes that begins with the stamp.
    pub(crate) fn text(self, len: usize) -> String {
        let mut text = format!("{MARK}{:0NUMBER$}{:0DUE$}", self.number, self.due);
        while text.len() < len {
            text.push_str("The quick brown fox jumps over the lazy dog. ");
        }
        text.truncate(len);
        text
    }

    /// The stamp in whatever the text is wrapped in.
    pub(crate) fn find(frame: &[u8]) -> Option<Self> {
        let at = memmem::find(frame, MARK.as_bytes())? + MARK.len();
        let number = digits(frame.get(at..at + NUMBER)?)?;
        let due = digits(frame.get(at + NUMBER..at + NUMBER + DUE)?)?;
        Some(Self { number, due })
    }
}

/// The number after `name` in a JSON object, whatever else is in it: a load generator has no time for the rest.
pub(crate) fn number_after(frame: &[u8], name: &str) -> Option<u64> {
    let at = memmem::find(frame, name.as_bytes())? + name.len();
    let rest = frame.get(at..)?;
    digits(&rest[..rest.iter().take_while(|byte| byte.is_ascii_digit()).count()])
}

fn digits(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_what_wraps_it() {
        let stamp = Stamp { number: 41, due: 1_234_567 };
        let text = stamp.text(200);
        assert_eq!(text.len(), 200);
        assert_eq!(Stamp::find(format!("{{\"seq\":7,\"text\":\"{text}\"}}").as_bytes()), Some(stamp));
        assert_eq!(Stamp::find(b"{}"), None);
    }

    #[test]
    fn a_number_is_found_by_its_name() {
        assert_eq!(number_after(br#"{"conversation":"seq","seq":42,"x":1}"#, r#""seq":"#), Some(42));
        assert_eq!(number_after(b"{}", r#""seq":"#), None);
    }
}
