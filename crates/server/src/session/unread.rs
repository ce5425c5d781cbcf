//! The bytes of a connection that have been read and not decoded.

/// Bytes that the buffer may have beyond twice what it holds. Below this, giving memory back costs more than it saves.
const MAX_SLACK: usize = 64;

/// The start of an unfinished frame, or what came while reading was paused, in one buffer. It has at most twice the bytes that
/// it holds, none when it is empty, and moves each byte a constant number of times, however small the parts in which bytes
/// come and go.
#[derive(Debug, Default)]
pub(super) struct Unread {
    bytes: Vec<u8>,
    /// Where the bytes start that have not been decoded.
    start: usize,
}

impl Unread {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// What has not been decoded.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Adds what was read.
    pub(super) fn append(&mut self, read: &[u8]) {
        self.compact();
        // `Vec` doubles its capacity when it grows.
        self.bytes.extend_from_slice(read);
    }

    /// Drops so many bytes that have been decoded.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start + count);
    }

    /// Gives back what is not needed for the bytes that are left.
    pub(super) fn shrink(&mut self) {
        let left = self.bytes.len() - self.start;
        if left == 0 {
            *self = Self::default();
        } else if self.bytes.capacity() > 2 * left + MAX_SLACK {
            self.compact();
            self.bytes.shrink_to_fit();
        }
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

impl From<Vec<u8>> for Unread {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 64 * 1024;

    /// What stands between doubling or halving a buffer and moving it for every byte.
    const MOST_MOVES: usize = 20;

    #[test]
    fn what_comes_byte_by_byte_is_moved_a_few_times_and_held_once() {
        let (mut unread, mut moves) = (Unread::default(), 0);
        for count in 1..=BYTES {
            let before = unread.bytes.capacity();
            unread.append(b"x");
            unread.shrink();
            moves += usize::from(unread.bytes.capacity() != before);
            assert!(unread.bytes.capacity() <= 2 * count + MAX_SLACK, "{count}");
        }
        assert_eq!(unread.bytes_mut().len(), BYTES);
        assert!(moves <= MOST_MOVES, "{moves}");
    }

    #[test]
    fn what_goes_frame_by_frame_is_moved_a_few_times_and_leaves_nothing() {
        let (mut unread, mut moves) = (Unread::from(vec![b'x'; BYTES]), 0);
        while !unread.is_empty() {
            let before = unread.start;
            unread.consume(6);
            unread.shrink();
            moves += usize::from(unread.start < before);
            assert!(unread.bytes.capacity() <= 2 * unread.bytes_mut().len() + MAX_SLACK);
        }
        assert!(moves <= MOST_MOVES, "{moves}");
        assert_eq!(unread.bytes.capacity(), 0);
    }

    #[test]
    fn what_is_read_stands_behind_what_is_left() {
        let mut unread = Unread::from(b"abc".to_vec());
        unread.consume(2);
        unread.append(b"de");
        assert_eq!(unread.bytes_mut(), b"cde");
    }
}
