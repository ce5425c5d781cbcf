//! What the environment said when the program started.

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use faults::{ENV_CONTROL, ENV_DATA, ENV_UNDO, Mapped};

use crate::kill::die;

/// What is attacked, and by what.
pub(crate) struct State {
    pub(crate) data: PathBuf,
    pub(crate) undo: PathBuf,
    pub(crate) control: Mapped,
}

impl State {
    /// What of a path is below the data directory; empty for the directory itself.
    pub(crate) fn below<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.data.as_os_str().as_bytes())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }
}

static STATE: OnceLock<State> = OnceLock::new();

/// Nothing before the program's own start, and nothing if no harness has started it.
pub(crate) fn state() -> Option<&'static State> {
    STATE.get()
}

/// Called by the loader, before `main`. Until then calls go straight to the kernel; an allocator that opens
/// files for its first allocation is not called back.
extern "C" fn start() {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    let (Some(data), Some(undo), Some(control)) =
        (variable(ENV_DATA), variable(ENV_UNDO), variable(ENV_CONTROL))
    else {
        return;
    };
    let control = match Mapped::open(&control) {
        Ok(control) => control,
        Err(error) => die("cannot map the control file", &error),
    };
    let _ = STATE.set(State { data, undo, control });
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
