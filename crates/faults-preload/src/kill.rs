//! Kills the program under test at a kill point.

use std::fmt::Display;

use faults::{KillPoint, SharedControl};

/// Kills the process if the harness has set this kill point and its count is reached.
pub(crate) fn kill_at(control: &SharedControl, point: KillPoint) {
    if control.is_kill_due(point) {
        kill_now();
    }
}

/// Kills the process as `kill -9` does: no destructor runs, no buffer is flushed.
pub(crate) fn kill_now() -> ! {
    loop {
        // SAFETY: the call only sends a signal to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// Aborts the process after an error with the harness's own files, because the test would prove nothing.
pub(crate) fn abort_with(what: &str, error: &dyn Display) -> ! {
    #[expect(clippy::print_stderr, reason = "the program under test has its own log, which is out of reach")]
    {
        eprintln!("faults: {what}: {error}");
    }
    std::process::abort();
}
