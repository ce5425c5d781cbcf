//! The checksum of an event's row, by which `switchboard check` finds flipped bits.

use crc32fast::Hasher;

/// The columns of an event that change only when the event is erased.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) conversation: i64,
    pub(crate) seq: u64,
    pub(crate) kind: i64,
    pub(crate) sender: i64,
    pub(crate) at: i64,
    pub(crate) key: Option<&'a str>,
    pub(crate) body: &'a str,
}

impl Columns<'_> {
    /// The CRC-32 as a signed number, because SQLite then stores it in 4 bytes instead of 6.
    pub(crate) fn checksum(&self) -> i32 {
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
