//! The texts of a measurement's messages: each contains the message's number, so that a receiver notices missing, duplicated and
//! reordered messages.

use memchr::memmem;

/// The mark before the number in a text. Neither JSON nor XML escapes its characters.
const STAMP_MARK: &str = "~~";
const STAMP_DIGITS: usize = 12;

/// A text of `len` bytes that begins with the message's number.
pub(crate) fn stamped_text(number: u64, len: usize) -> String {
    let mut text = format!("{STAMP_MARK}{number:0STAMP_DIGITS$} ");
    while text.len() < len {
        text.push_str("The quick brown fox jumps over the lazy dog. ");
    }
    text.truncate(len);
    text
}

/// Finds the number of a message in a frame, in any format around the text.
pub(crate) fn find_stamp(frame: &[u8]) -> Option<u64> {
    let at = memmem::find(frame, STAMP_MARK.as_bytes())? + STAMP_MARK.len();
    parse_digits(frame.get(at..at + STAMP_DIGITS)?)
}

/// Finds the number after `name` in a JSON object, without parsing the object, which would be too slow for a load generator.
pub(crate) fn number_after(frame: &[u8], name: &str) -> Option<u64> {
    let at = memmem::find(frame, name.as_bytes())? + name.len();
    let rest = frame.get(at..)?;
    parse_digits(&rest[..rest.iter().take_while(|byte| byte.is_ascii_digit()).count()])
}

fn parse_digits(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_inside_a_frame() {
        let text = stamped_text(41, 200);
        assert_eq!(text.len(), 200);
        assert_eq!(find_stamp(format!("{{\"seq\":7,\"text\":\"{text}\"}}").as_bytes()), Some(41));
        assert_eq!(find_stamp(b"{}"), None);
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        assert_eq!(number_after(br#"{"conversation":"seq","seq":42,"x":1}"#, r#""seq":"#), Some(42));
        assert_eq!(number_after(b"{}", r#""seq":"#), None);
    }
}
