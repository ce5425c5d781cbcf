//! The numbers of a connection's writes, and the law of their order.

use std::collections::{BTreeMap, BTreeSet};

/// What a device knows of the writes that it has numbered.
#[derive(Default)]
pub(crate) struct Numbers {
    last: u64,
    /// The highest that is stored.
    stored: u64,
    /// The highest that is stored or refused for good.
    settled: u64,
    /// Those under way, or to be sent again.
    open: BTreeSet<u64>,
    /// Of each command under way, its number and the one that it follows.
    commands: BTreeMap<u64, (u64, u64)>,
}

impl Numbers {
    /// The number of a write, and of the one that it follows; `before` is the number that it had already.
    pub(super) fn begin(&mut self, command: u64, before: Option<u64>) -> (u64, u64) {
        let number = before.unwrap_or(self.last + 1);
        self.last = self.last.max(number);
        let after = self.open.range(..number).next_back().copied().unwrap_or(self.stored);
        self.open.insert(number);
        self.commands.insert(command, (number, after));
        (number, after)
    }

    pub(super) fn number_of(&self, command: u64) -> Option<u64> {
        self.commands.get(&command).map(|(number, _)| *number)
    }

    /// A write was stored: none may be that follows an open one, nor before one with a smaller number.
    pub(super) fn stored(&mut self, command: u64) -> Result<(), String> {
        let Some((number, after)) = self.commands.remove(&command) else { return Ok(()) };
        if after > self.settled {
            return Err(format!("write {number} was stored, though {after}, which it follows, was not"));
        }
        if number <= self.stored {
            return Err(format!("write {number} was stored after {}", self.stored));
        }
        self.open.remove(&number);
        self.stored = number;
        self.settled = self.settled.max(number);
        Ok(())
    }

    /// A write was refused for good.
    pub(super) fn refused(&mut self, command: u64) {
        if let Some((number, after)) = self.commands.remove(&command) {
            self.open.remove(&number);
            if after <= self.settled {
                self.settled = self.settled.max(number);
            }
        }
    }

    /// A write was refused for now; whether it is sent again.
    pub(super) fn refused_for_now(&mut self, command: u64, again: bool) {
        if let Some((number, _)) = self.commands.remove(&command)
            && !again
        {
            self.open.remove(&number);
        }
    }
}
