//! A checksum of each event's row, so that `switchboard check` finds a byte that flipped in a text.

use crc32fast::Hasher;

/// The columns of an event that nobody changes but by erasing it.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Columns<'a> {
    pub(in crate::store) conversation: i64,
    pub(in crate::store) seq: u64,
    pub(in crate::store) kind: i64,
    pub(in crate::store) sender: i64,
    pub(in crate::store) at: i64,
    pub(in crate::store) key: Option<&'a str>,
    pub(in crate::store) body: &'a str,
}

impl Columns<'_> {
    /// CRC-32 as a signed number, which takes SQLite 4 bytes in place of 6.
    pub(in crate::store) fn checksum(&self) -> i32 {
        let mut hasher = Hasher::new();
        hasher.update(&self.conversation.to_be_bytes());
        hasher.update(&self.seq.to_be_bytes());
        hasher.update(&self.kind.to_be_bytes());
        hasher.update(&self.sender.to_be_bytes());
        hasher.update(&self.at.to_be_bytes());
        let key = self.key.unwrap_or_default();
        hasher.update(&key.len().to_be_bytes());
        hasher.update(key.as_bytes());
        hasher.update(self.body.as_bytes());
        hasher.finalize().cast_signed()
    }
}
