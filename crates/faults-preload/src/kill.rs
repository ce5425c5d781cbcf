//! How the program ends where it is asked to.

use std::fmt::Display;

use faults::{KillPoint, Shared};

/// Kills the process if this is the place.
pub(crate) fn at(control: &Shared, point: KillPoint) {
    if control.reached(point) {
        now();
    }
}

/// Kills the process as `kill -9` does: no destructor, no buffer written.
pub(crate) fn now() -> ! {
    loop {
        // SAFETY: only signals this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// The harness's own files have failed. To go on would be to test something else.
pub(crate) fn die(what: &str, error: &dyn Display) -> ! {
    #[expect(clippy::print_stderr, reason = "this is in somebody else's program, whose log is out of reach")]
    {
        eprintln!("faults: {what}: {error}");
    }
    std::process::abort();
}
