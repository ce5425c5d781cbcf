//! Rewrites the error messages of the JSON library. They name Rust types (`u32`, `map`, `sequence`), but the author of a
//! client knows JSON's terms: a whole number, an object, a list.

/// Rewrites a message of the JSON library in the terms of JSON.
pub fn in_json_words(message: &str) -> String {
    let message = without_position(message);
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = message.strip_prefix(kind).and_then(|m| m.rsplit_once(", expected "))
        {
            return format!("expected {}, not {}", describe_expected(expected), describe_found(found));
        }
    }
    if let Some(choice) = message.strip_prefix("unknown variant ") {
        return choice.replacen(", expected one of ", " is none of ", 1);
    }
    match message {
        "lone leading surrogate in hex escape"
        | "unexpected end of hex escape"
        | "invalid unicode code point"
        | "lone trailing surrogate in hex escape" => {
            "half of a surrogate pair: the text was cut inside a character, as in the middle of an emoji"
                .to_owned()
        }
        "number out of range" => "a number beyond the range of a double".to_owned(),
        "recursion limit exceeded" => "nested too deep".to_owned(),
        other => other.to_owned(),
    }
}

/// Removes the line and column, which are useless to a client that sent a single line.
fn without_position(message: &str) -> &str {
    match message.rsplit_once(" at line ") {
        Some((message, position)) if position.split_once(" column ").is_some() => message,
        _ => message,
    }
}

fn describe_expected(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list `[…]`",
        "a map" => "an object `{…}`",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => "an object `{…}`",
        other => other.trim_start_matches("a borrowed ").trim_start_matches("a formatted "),
    }
}

/// Describes the value that was found, without a string's content, which may be long.
fn describe_found(found: &str) -> String {
    let value = found.split('`').nth(1).unwrap_or_default();
    match found.split(' ').next().unwrap_or_default() {
        "boolean" => value.to_owned(),
        "integer" | "floating" => format!("the number {value}"),
        "string" => "a string".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        "null" | "unit" | "Option" => "null".to_owned(),
        _ => found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::in_json_words;

    #[test]
    fn error_messages_name_types_of_json_and_not_of_rust() {
        for (library, ours) in [
            (
                "invalid type: string \"50\", expected u32 at line 1 column 12",
                "expected a whole number, not a string",
            ),
            (
                "invalid type: string \"a, expected b\", expected a boolean",
                "expected true or false, not a string",
            ),
            ("invalid type: map, expected a sequence", "expected a list `[…]`, not an object"),
            ("invalid type: sequence, expected a map", "expected an object `{…}`, not a list"),
            (
                "invalid type: floating point `4.5`, expected u64",
                "expected a whole number, not the number 4.5",
            ),
            ("invalid value: integer `-1`, expected u64", "expected a whole number, not the number -1"),
            ("invalid type: null, expected a string", "expected a string, not null"),
            (
                "unknown variant `king`, expected one of `admin`, `member`",
                "`king` is none of `admin`, `member`",
            ),
            ("missing field `to`", "missing field `to`"),
            (
                "invalid type: string \"x at line 3\", expected u32 at line 1 column 9",
                "expected a whole number, not a string",
            ),
            ("number out of range at line 1 column 9", "a number beyond the range of a double"),
        ] {
            assert_eq!(in_json_words(library), ours);
        }
    }
}
