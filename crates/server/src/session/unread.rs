//! The buffer for the bytes of a connection that have been read and not decoded yet.

/// How many bytes the buffer's capacity may exceed twice its content. Freeing less memory costs more than it saves.
const MAX_UNUSED_BYTES: usize = 64;

/// The start of an incomplete frame, or bytes that arrived while reading was paused. The capacity is at most about twice the
/// content, and zero if there is none. Each byte is moved a constant number of times on average, however small the parts in which
/// bytes are added and consumed.
#[derive(Debug, Default)]
pub(super) struct UndecodedBytes {
    bytes: Vec<u8>,
    /// Index of the first byte that has not been decoded.
    start: usize,
}

impl UndecodedBytes {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// The bytes that have not been decoded.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).unwrap_or_default()
    }

    /// Adds bytes that were read.
    pub(super) fn append(&mut self, read: &[u8]) {
        self.compact();
        // `Vec` doubles its capacity when it grows, so each byte is moved a constant number of times on average.
        self.bytes.extend_from_slice(read);
    }

    /// Drops `count` decoded bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.bytes.len().min(self.start + count);
    }

    /// Frees capacity that the remaining bytes do not need.
    pub(super) fn shrink(&mut self) {
        let left = self.bytes.len() - self.start;
        if left == 0 {
            *self = Self::default();
        } else if self.bytes.capacity() > 2 * left + MAX_UNUSED_BYTES {
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

impl From<Vec<u8>> for UndecodedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 64 * 1024;

    /// The most reallocations. Because the capacity is doubled and halved, their number is logarithmic in the size.
    const MAX_MOVES: usize = 20;

    #[test]
    fn appending_byte_by_byte_reallocates_a_few_times_and_wastes_no_memory() {
        let (mut unread, mut moves) = (UndecodedBytes::default(), 0);
        for count in 1..=BYTES {
            let before = unread.bytes.capacity();
            unread.append(b"x");
            unread.shrink();
            moves += usize::from(unread.bytes.capacity() != before);
            assert!(unread.bytes.capacity() <= 2 * count + MAX_UNUSED_BYTES, "{count}");
        }
        assert_eq!(unread.bytes_mut().len(), BYTES);
        assert!(moves <= MAX_MOVES, "{moves}");
    }

    #[test]
    fn consuming_frame_by_frame_reallocates_a_few_times_and_frees_the_buffer() {
        let (mut unread, mut moves) = (UndecodedBytes::from(vec![b'x'; BYTES]), 0);
        while !unread.is_empty() {
            let before = unread.start;
            unread.consume(6);
            unread.shrink();
            moves += usize::from(unread.start < before);
            assert!(unread.bytes.capacity() <= 2 * unread.bytes_mut().len() + MAX_UNUSED_BYTES);
        }
        assert!(moves <= MAX_MOVES, "{moves}");
        assert_eq!(unread.bytes.capacity(), 0);
    }

    #[test]
    fn appended_bytes_follow_the_remaining_ones() {
        let mut unread = UndecodedBytes::from(b"abc".to_vec());
        unread.consume(2);
        unread.append(b"de");
        assert_eq!(unread.bytes_mut(), b"cde");
    }
}
