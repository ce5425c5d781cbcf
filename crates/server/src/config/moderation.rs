//! The filter: a list of words that users may not write.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::words::{MAX_FILE_BYTES, WordList};

/// What becomes of what has a word of the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilterAction {
    /// It is refused.
    #[default]
    Refuse,
    /// A message waits for a moderator.
    Hold,
}

/// The filter of words. Without `words_file` nothing is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ModerationSection {
    /// A file with words that messages, reactions, titles and names may not have: an entry on each line, at most 10,000; `*` at the
    /// beginning or end of an entry for parts of words, `!` before a word that is allowed, `#` before a comment. It is read again when
    /// it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) words_file: Option<PathBuf>,
    /// What becomes of what has such a word: "refuse"; or "hold": a message waits for a moderator, and all else is refused.
    #[schemars(with = "String")]
    pub(super) action: FilterAction,
}

/// The filter of words, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModerationConfig {
    /// The file with the words.
    pub words_file: PathBuf,
    /// What becomes of what has one of them.
    pub action: FilterAction,
}

impl ModerationConfig {
    pub(super) fn to_section(this: Option<&Self>) -> ModerationSection {
        let Some(Self { words_file, action }) = this.cloned() else { return ModerationSection::default() };
        ModerationSection { words_file: Some(words_file), action }
    }
}

/// Checks the section and the file.
pub(super) fn resolve(
    section: &ModerationSection,
    source: impl Fn(&str) -> String,
) -> Result<Option<ModerationConfig>, ConfigError> {
    let Some(path) = &section.words_file else { return Ok(None) };
    let (source, name) = (source("moderation.words_file"), path.display());
    let bytes =
        read_words(path).map_err(|e| ConfigError::new(format!("{source}: cannot read {name}: {e}")))?;
    WordList::parse(&bytes).map_err(|e| ConfigError::new(format!("{source}: {name}, {e}")))?;
    Ok(Some(ModerationConfig { words_file: path.clone(), action: section.action }))
}

/// Reads a file of words.
///
/// # Errors
/// It cannot be read, or is too large.
pub(crate) fn read_words(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}
