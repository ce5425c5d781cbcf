//! Injects disk faults into an unmodified program, and kills it: this crate is the side of the harness (the test).
//!
//! The program under test runs with the library of `crates/faults-preload` preloaded (Linux, glibc), which wraps libc's calls
//! on files and sockets. The harness sets faults through [`Control`] while the program runs:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use std::{path::Path, process::Command};
//! use faults::{Control, KillPoint};
//!
//! let scratch = Path::new("target/scratch");
//! let control = Control::create(&scratch.join("control"), &scratch.join("data"), &scratch.join("undo"))?;
//! let mut command = Command::new("target/debug/switchboard");
//! command.arg("dev").arg("--data").arg(control.data());
//! control.command_env(&mut command)?;
//! let mut server = command.spawn()?;
//! // … load …
//! control.set_kill(Some(KillPoint::AfterWalSync(17)));
//! server.wait()?;
//! // The machine loses power as well: unsynced data are gone, in whole or in part.
//! println!("{:?}", control.cut_power(&mut fastrand::Rng::with_seed(1))?);
//! # Ok(()) }
//! ```
//!
//! A harness depends on `faults-preload` without using any of its names, so that Cargo builds the library.
//!
//! # The simulated disk
//!
//! - A write is durable after a successful `fsync` or `fdatasync` of its file, through any descriptor. Before that, a power cut
//!   keeps it, loses it or tears it between sectors of 512 bytes, independently of other writes. Bytes outside of a write are
//!   never damaged. A kill alone damages nothing, and syncs nothing.
//! - Creating, removing and renaming files directly in the data directory is durable after a sync of that directory. Before
//!   that, a power cut keeps the first few of these changes. A file's own sync does not keep its name (POSIX promises no more;
//!   most file systems do better).
//! - A failed sync drops the data that it should have written, and the next sync succeeds without them.
//! - The wall clock may be ahead or behind; other clocks do not change.
//! - On a full disk files cannot grow; a write that partly fits is short.
//!
//! Not simulated: names below subdirectories, and the data directory's own name; files that change through `mmap` (SQLite's
//! database with `mmap_size`), `fallocate`, `copy_file_range`, `sendfile`; duplicated descriptors (`dup`, `fcntl`); two
//! programs on one directory at a time; a program that is started on it without the library, unless after a power cut.

mod control;
mod cut;
mod names;
mod undo;

use std::path::{Path, PathBuf};
use std::{env, io};

pub use control::{Control, Counts, DroppedPages, KillPoint, MappedControl, SharedControl, SyncFilter};
pub use cut::{PowerCutResult, cut_power};
pub use names::{NameChange, NamesLog};
pub use undo::{FileId, UndoLog};

/// The environment variable with the directory whose files get the faults; read by the program.
pub const ENV_DATA: &str = "FAULTS_DATA";

/// The environment variable with the path of the control file; read by the program.
pub const ENV_CONTROL: &str = "FAULTS_CONTROL";

/// The environment variable with the directory for undo logs of unsynced data; read by the program.
pub const ENV_UNDO: &str = "FAULTS_UNDO";

/// The environment variable with the library's path, if it is not near the harness's executable; read by the harness.
pub const ENV_LIBRARY: &str = "FAULTS_LIBRARY";

const LIBRARY_FILE: &str = "libfaults_preload.so";

/// The path of the library to preload: `FAULTS_LIBRARY`, or beside this executable, where Cargo puts it.
pub fn library_path() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os(ENV_LIBRARY) {
        return Ok(path.into());
    }
    let executable = env::current_exe()?;
    // `deps` comes first, because Cargo updates the copy above it only when the library itself is built by name.
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(|directory| [directory.join("deps").join(LIBRARY_FILE), directory.join(LIBRARY_FILE)])
        .find(|path| path.exists())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{LIBRARY_FILE} is not beside {executable:?}"))
        })
}

/// Whether the file is SQLite's shared memory, which does not survive a power cut.
pub fn is_shared_memory(path: &Path) -> bool {
    ends_with(path, "-shm")
}

/// Whether the file is a write-ahead log of SQLite.
pub fn is_wal(path: &Path) -> bool {
    ends_with(path, "-wal")
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())
}
