//! Rust source, split into code, comments and string literals, because a rule about one must not match another.

/// A Rust source file, split into code, string literals and comments.
pub(super) struct Source {
    /// The source with spaces in place of comments and literals; line numbers stay the same.
    pub(super) code: String,
    /// The string literals without their quotes. Escapes stay as they are written.
    pub(super) strings: Vec<CommentOrString>,
    /// The comments, including `//` or `/*`.
    pub(super) comments: Vec<CommentOrString>,
}

/// A string literal or a comment.
pub(super) struct CommentOrString {
    /// The line on which the literal or comment begins, counted from 1.
    pub(super) line: usize,
    pub(super) text: String,
}

impl Source {
    pub(super) fn parse(text: &str) -> Self {
        let code = String::with_capacity(text.len());
        let mut source = Self { code, strings: Vec::new(), comments: Vec::new() };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let in_word = source.code.ends_with(is_word);
            let length = if let Some((open, body, close)) = string_bounds(rest, in_word) {
                let line = source.code.matches('\n').count() + 1;
                source.strings.push(CommentOrString { line, text: rest[open..open + body].to_owned() });
                open + body + close
            } else {
                if let Some(length) = comment_len(rest) {
                    let line = source.code.matches('\n').count() + 1;
                    source.comments.push(CommentOrString { line, text: rest[..length].to_owned() });
                }
                comment_len(rest).or_else(|| character_len(rest)).unwrap_or(0)
            };
            if length == 0 {
                source.code.push(c);
                rest = &rest[c.len_utf8()..];
            } else {
                let (skipped, after) = rest.split_at(length);
                source.code.extend(skipped.chars().map(|c| if c == '\n' { c } else { ' ' }));
                rest = after;
            }
        }
        source
    }

    /// The lines of code, with their numbers from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// Whether the character may be part of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The identifiers, keywords and numbers of a piece of code.
pub(super) fn split_into_words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// Whether the code calls a function of this name, with or without a path.
pub(super) fn calls_function(code: &str, name: &str) -> bool {
    code.match_indices(name)
        .any(|(at, _)| code[at + name.len()..].starts_with('(') && !code[..at].ends_with(is_word))
}

/// The length of the comment with which `text` begins, if it begins with one.
fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        let step = match text[at..].get(..2) {
            Some("/*") => 1,
            Some("*/") => -1,
            _ => 0,
        };
        depth += step;
        at += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            return Some(at);
        }
    }
    Some(text.len())
}

/// The lengths of the opening, the body and the closing of a string literal at the beginning of `text`.
/// Inside of a word, `r` is a letter of that word, not the prefix of a raw string.
fn string_bounds(text: &str, in_word: bool) -> Option<(usize, usize, usize)> {
    if let Some(body) = text.strip_prefix('"') {
        let end = find_unescaped(body, '"').unwrap_or(body.len());
        return Some((1, end, body[end..].len().min(1)));
    }
    let prefix = ["r", "br", "cr"].into_iter().find(|p| text.starts_with(p) && !in_word)?;
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&closing).unwrap_or(body.len());
    Some((prefix.len() + hashes + 1, end, closing.len().min(body.len() - end)))
}

/// The length of the character literal with which `text` begins; `None` if it is a lifetime.
fn character_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        return find_unescaped(body, '\'').map(|end| end + 2);
    }
    body[first.len_utf8()..].starts_with('\'').then_some(first.len_utf8() + 2)
}

/// The position of the first `mark` that has no backslash before it.
fn find_unescaped(text: &str, mark: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == mark && !escaped {
            return Some(at);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_and_strings(text: &str) -> (Vec<String>, Vec<String>) {
        let source = Source::parse(text);
        assert_eq!(source.code.matches('\n').count(), text.matches('\n').count(), "line numbers are kept");
        let code = source.code.split_whitespace().map(ToOwned::to_owned).collect();
        (code, source.strings.into_iter().map(|literal| literal.text).collect())
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        for (text, code, strings) in [
            ("a // b\nc", vec!["a", "c"], vec![]),
            ("a /* b /* \" */ c */ d", vec!["a", "d"], vec![]),
            (r#"a("b // c", d)"#, vec!["a(", ",", "d)"], vec!["b // c"]),
            (r#""a \" b" c"#, vec!["c"], vec![r#"a \" b"#]),
            ("r##\"a \"# b\"## c", vec!["c"], vec!["a \"# b"]),
            ("br\"\\\" r#fn", vec!["r#fn"], vec!["\\"]),
            ("'\"' '\\'' 'a x: &'a T", vec!["'a", "x:", "&'a", "T"], vec![]),
            ("for\"a\"", vec!["for"], vec!["a"]),
            ("\"open", vec![], vec!["open"]),
            ("/* open", vec![], vec![]),
            ("r#\"open", vec![], vec!["open"]),
        ] {
            let (got_code, got_strings) = code_and_strings(text);
            assert_eq!((got_code, got_strings), (to_strings(&code), to_strings(&strings)), "{text}");
        }
    }

    fn to_strings(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|&part| part.to_owned()).collect()
    }

    #[test]
    fn a_literal_has_the_line_on_which_it_begins() {
        let source = Source::parse("a\n\"b\nc\"\n\"d\"");
        let lines: Vec<usize> = source.strings.iter().map(|literal| literal.line).collect();
        assert_eq!(lines, [2, 4]);
    }

    #[test]
    fn a_call_is_a_whole_name_before_a_parenthesis() {
        assert!(calls_function("tokio::time::sleep(wait)", "sleep"));
        assert!(!calls_function("asleep(wait)", "sleep"));
        assert!(!calls_function("sleep_until(then)", "sleep"));
    }
}
