//! Kills the program at a kill point.

use std::fmt::Display;

use faults::{KillPoint, Shared};

/// Kills the process if this is the kill point.
pub(crate) fn at(control: &Shared, point: KillPoint) {
    if control.reached(point) {
        now();
    }
}

/// Kills the process as `kill -9` does: no destructor runs, no buffer is flushed.
pub(crate) fn now() -> ! {
    loop {
        // SAFETY: only signals this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// The harness's own files failed. The test would be meaningless, so the process aborts.
pub(crate) fn die(what: &str, error: &dyn Display) -> ! {
    #[expect(clippy::print_stderr, reason = "the program under test has its own log, which is out of reach")]
    {
        eprintln!("faults: {what}: {error}");
    }
    std::process::abort();
}
