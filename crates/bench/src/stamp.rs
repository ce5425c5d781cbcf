//! What a message of a measurement says: which one it is, so that whoever gets it can tell whether one is missing, came
//! twice or out of order.

use memchr::memmem;

/// It stands unchanged in JSON and in XML.
const MARK: &str = "~~";
const NUMBER: usize = 12;

/// A text of `len` bytes that begins with a message's number.
pub(crate) fn text(number: u64, len: usize) -> String {
    let mut text = format!("{MARK}{number:0NUMBER$} ");
    while text.len() < len {
        text.push_str("The quick brown fox jumps over the lazy dog. ");
    }
    text.truncate(len);
    text
}

/// The number in whatever the text is wrapped in.
pub(crate) fn find(frame: &[u8]) -> Option<u64> {
    let at = memmem::find(frame, MARK.as_bytes())? + MARK.len();
    digits(frame.get(at..at + NUMBER)?)
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
    fn a_number_is_found_in_what_wraps_it() {
        let text = text(41, 200);
        assert_eq!(text.len(), 200);
        assert_eq!(find(format!("{{\"seq\":7,\"text\":\"{text}\"}}").as_bytes()), Some(41));
        assert_eq!(find(b"{}"), None);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(number_after(br#"{"conversation":"seq","seq":42,"x":1}"#, r#""seq":"#), Some(42));
        assert_eq!(number_after(b"{}", r#""seq":"#), None);
    }
}
