//! Faults of disks and deaths of processes, for a program that knows nothing of it: the harness's side.
//!
//! The program under test runs with the library of `crates/faults-preload` preloaded (Linux, glibc), which
//! stands before libc's calls on files and sockets. What goes wrong, the harness says while the program runs,
//! through [`Control`]:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use std::{path::Path, process::Command};
//! use faults::{Control, Dropped, KillPoint, Syncs};
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
//! // The machine loses power, too: what was not synced is gone, in whole or in part.
//! println!("{:?}", control.cut_power(&mut fastrand::Rng::with_seed(1))?);
//! # Ok(()) }
//! ```
//!
//! A harness depends on `faults-preload` without naming it in its code: then Cargo has built the library.
//!
//! # The disk that is played
//!
//! - A write is on the disk after a successful `fsync` or `fdatasync` of its file, through any descriptor.
//!   Before, a power cut keeps it, loses it or tears it between sectors of 512 bytes, independently of other
//!   writes. Bytes outside of a write are never harmed. A plain kill harms nothing, and syncs nothing.
//! - Making, removing and renaming files directly in the data directory is on the disk after a sync of that
//!   directory; before, a power cut keeps a beginning of these changes. A file's own sync does not keep its
//!   name (POSIX promises no more; most file systems do better).
//! - A failed sync drops what it should have written, and the next sync succeeds without it.
//! - The clock of the day may be ahead or behind; other clocks are not touched.
//! - A full disk refuses to let files grow; a write that partly fits is cut short.
//!
//! Not played: names below subdirectories, and the data directory's own; files that change through `mmap`
//! (SQLite's database with `mmap_size`), `fallocate`, `copy_file_range`, `sendfile`; descriptors that are
//! duplicated (`dup`, `fcntl`); two programs on one directory at a time; a program that is started on it
//! without the library, unless a power cut came before.

mod control;
mod cut;
mod names;
mod undo;

use std::path::{Path, PathBuf};
use std::{env, io};

pub use control::{Control, Counts, Dropped, KillPoint, Mapped, Shared, Syncs};
pub use cut::{Cut, cut_power};
pub use names::{NameChange, NamesLog};
pub use undo::{FileId, UndoLog};

/// In the program's environment: the directory whose files are attacked.
pub const ENV_DATA: &str = "FAULTS_DATA";

/// In the program's environment: the control file.
pub const ENV_CONTROL: &str = "FAULTS_CONTROL";

/// In the program's environment: the directory for what is not synced.
pub const ENV_UNDO: &str = "FAULTS_UNDO";

/// In the harness's environment: where the library is, if it is nowhere near the harness's own file.
pub const ENV_LIBRARY: &str = "FAULTS_LIBRARY";

const LIBRARY: &str = "libfaults_preload.so";

/// Where the library is that is to be preloaded: what `FAULTS_LIBRARY` says, or beside this executable, where
/// Cargo puts it.
pub fn library_path() -> io::Result<PathBuf> {
    if let Some(path) = env::var_os(ENV_LIBRARY) {
        return Ok(path.into());
    }
    let executable = env::current_exe()?;
    // `deps` first: what Cargo puts above it is renewed only when the library itself was asked for.
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(|directory| [directory.join("deps").join(LIBRARY), directory.join(LIBRARY)])
        .find(|path| path.exists())
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{LIBRARY} is not beside {executable:?}"))
        })
}

/// Whether this is SQLite's shared memory, which no power cut survives.
pub fn is_shared_memory(path: &Path) -> bool {
    ends_with(path, "-shm")
}

/// Whether this is a write-ahead log.
pub fn is_wal(path: &Path) -> bool {
    ends_with(path, "-wal")
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes())
}
