//! The numbers of a connection's writes, and a check that the server stores the writes in that order.

use std::collections::{BTreeMap, BTreeSet};

/// The numbers that a device gave to its writes on one connection, and the answers to these writes.
#[derive(Default)]
pub(crate) struct WriteNumbers {
    last: u64,
    /// The highest number of a write that is stored.
    stored: u64,
    /// The highest number of a write that is stored or refused for good.
    settled: u64,
    /// The numbers of writes that have no final answer: they are in flight or will be sent again.
    unsettled: BTreeSet<u64>,
    /// For each command in flight, the number of its write and the number of the write before it.
    commands: BTreeMap<u64, (u64, u64)>,
}

impl WriteNumbers {
    /// Returns the number of this write and the number of the write before it. `before`: the number that the write already has if
    /// it is sent again.
    pub(super) fn assign_number(&mut self, command: u64, before: Option<u64>) -> (u64, u64) {
        let number = before.unwrap_or(self.last + 1);
        self.last = self.last.max(number);
        let after = self.unsettled.range(..number).next_back().copied().unwrap_or(self.stored);
        self.unsettled.insert(number);
        self.commands.insert(command, (number, after));
        (number, after)
    }

    pub(super) fn number_of(&self, command: u64) -> Option<u64> {
        self.commands.get(&command).map(|(number, _)| *number)
    }

    /// Records the answer that the command's write was stored. Fails if the write before it has no final answer, or if a write with
    /// a higher number was stored earlier.
    pub(super) fn record_stored(&mut self, command: u64) -> Result<(), String> {
        let Some((number, after)) = self.commands.remove(&command) else { return Ok(()) };
        if after > self.settled {
            return Err(format!("write {number} was stored, though {after}, which it follows, was not"));
        }
        if number <= self.stored {
            return Err(format!("write {number} was stored after {}", self.stored));
        }
        self.unsettled.remove(&number);
        self.stored = number;
        self.settled = self.settled.max(number);
        Ok(())
    }

    /// Records the answer that the command's write was refused for good: the device does not send it again.
    pub(super) fn record_refused(&mut self, command: u64) {
        if let Some((number, after)) = self.commands.remove(&command) {
            self.unsettled.remove(&number);
            if after <= self.settled {
                self.settled = self.settled.max(number);
            }
        }
    }

    /// Records the answer that the command's write was refused for now. `again`: whether the device sends it again.
    pub(super) fn record_refused_for_now(&mut self, command: u64, again: bool) {
        if let Some((number, _)) = self.commands.remove(&command)
            && !again
        {
            self.unsettled.remove(&number);
        }
    }
}
