//! What the harness passes in environment variables, read when the program starts.

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use faults::{ENV_CONTROL, ENV_DATA, ENV_UNDO, MappedControl};

use crate::kill::abort_with;

/// The data directory of the program, and the files of the harness.
pub(crate) struct State {
    pub(crate) data: PathBuf,
    pub(crate) undo: PathBuf,
    pub(crate) control: MappedControl,
}

impl State {
    /// The part of a path below the data directory; empty for the directory itself.
    pub(crate) fn relative_path<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let rest = path.strip_prefix(self.data.as_os_str().as_bytes())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }
}

static STATE: OnceLock<State> = OnceLock::new();

/// The state; `None` until [`start`] has run, and if no harness started the program.
pub(crate) fn state() -> Option<&'static State> {
    STATE.get()
}

/// The loader calls this function before `main`. Until then calls go directly to the kernel, so that an allocator that opens
/// files for its first allocation does not recurse.
extern "C" fn start() {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    let (Some(data), Some(undo), Some(control)) =
        (variable(ENV_DATA), variable(ENV_UNDO), variable(ENV_CONTROL))
    else {
        return;
    };
    let control = match MappedControl::open(&control) {
        Ok(control) => control,
        Err(error) => abort_with("cannot map the control file", &error),
    };
    let _ = STATE.set(State { data, undo, control });
}

#[used]
#[unsafe(link_section = ".init_array")]
static RUN_AT_LOAD: extern "C" fn() = start;
