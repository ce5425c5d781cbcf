//! JSON Lines: the source whose lines are sent as they are.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{Record, Records};

/// The longest line: many times a message of the longest text. A file without line ends does not fill the memory.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Opens a file, or stdin for `-`.
pub(super) fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(file))
}

/// The lines of a file. Empty ones are passed over.
pub(super) fn records(file: Box<dyn Read>) -> Records {
    let mut reader = BufReader::new(file);
    let mut number = 0_u64;
    Box::new(std::iter::from_fn(move || {
        loop {
            number += 1;
            match read_line(&mut reader, number) {
                Ok(None) => return None,
                Ok(Some(line)) if line.trim_ascii().is_empty() => {}
                Ok(Some(line)) => return Some(Ok(Record { place: format!("line {number}"), line })),
                Err(error) => return Some(Err(error)),
            }
        }
    }))
}

fn read_line(reader: &mut impl BufRead, number: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = MAX_LINE_BYTES as u64 + 1;
    let read = reader.take(most).read_until(b'\n', &mut line).with_context(|| format!("line {number}"))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    ensure!(line.len() <= MAX_LINE_BYTES, "line {number} has more than {MAX_LINE_BYTES} bytes");
    Ok(Some(line))
}

/// The file of refused lines.
pub(super) struct Rejects(File);

impl Rejects {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    pub(super) fn add(&mut self, line: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(&[line, b"\n"].concat()).context("cannot write a refused line")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_never_ends_is_refused_without_being_read() {
        let file = std::io::repeat(b'x').take(64 * MAX_LINE_BYTES as u64);
        let mut read = records(Box::new(b"{}\n\n".chain(file)));
        assert_eq!(read.next().expect("a line").expect("read").line, b"{}");
        let error = read.next().expect("an error").expect_err("too long");
        assert!(error.to_string().starts_with("line 3 has more than"), "{error}");
    }
}
