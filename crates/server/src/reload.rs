//! Decides when files that have changed are used.

use std::time::Duration;

/// How often files are read. A change is used when two reads in a row agree, because a program may write a file in parts, or
/// replace one of two after the other.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What was read of the same files, from time to time.
pub(crate) struct Reloads<C> {
    used: C,
    last: C,
    refused: Option<C>,
}

impl<C: Clone + PartialEq> Reloads<C> {
    /// Begins with what is in use.
    pub(crate) fn new(used: C) -> Self {
        Self { last: used.clone(), used, refused: None }
    }

    /// Whether to try what was just read: it is not in use, did not change since the last read, and was not refused before.
    pub(crate) fn is_news(&mut self, read: &C) -> bool {
        let is_stable = std::mem::replace(&mut self.last, read.clone()) == *read;
        if *read == self.used {
            self.refused = None;
            return false;
        }
        is_stable && self.refused.as_ref() != Some(read)
    }

    /// What was read is in use from now on.
    pub(crate) fn set_used(&mut self, read: C) {
        (self.used, self.refused) = (read, None);
    }

    /// What was read cannot be used, and is not tried again.
    pub(crate) fn set_refused(&mut self, read: C) {
        self.refused = Some(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_tried_once_and_when_two_reads_agree() {
        let mut reloads = Reloads::new("a");
        assert!(!reloads.is_news(&"a"));
        assert!(!reloads.is_news(&"b"), "it may still change");
        assert!(reloads.is_news(&"b"));
        reloads.set_refused("b");
        assert!(!reloads.is_news(&"b"));
        assert!(!reloads.is_news(&"c"));
        assert!(reloads.is_news(&"c"));
        reloads.set_used("c");
        assert!(!reloads.is_news(&"c"));
        assert!(!reloads.is_news(&"b"));
        assert!(reloads.is_news(&"b"), "another version was in use meanwhile");
    }
}
