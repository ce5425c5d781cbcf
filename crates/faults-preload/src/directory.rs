//! Records which names in the data directory were created, removed or renamed, and when the directory was synced.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use faults::{NameChange, NamesLog};

use crate::kill::abort_with;
use crate::state::State;
use crate::system;

static NAMES_LOG: Mutex<Option<NamesLog>> = Mutex::new(None);

/// Calls `act` with the journal of changed names, which the first call opens.
fn with_names_log<T>(state: &State, act: impl FnOnce(&mut NamesLog) -> std::io::Result<T>) -> T {
    let mut log: MutexGuard<'_, Option<NamesLog>> = NAMES_LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = match log.take() {
        Some(log) => Ok(log),
        None => NamesLog::open(&state.undo),
    };
    match opened.and_then(|opened| act(log.insert(opened))) {
        Ok(result) => result,
        Err(error) => abort_with("cannot note a change of names", &error),
    }
}

/// The name of the descriptor's file; `None` unless the file is directly in the data directory.
fn name_in_data_directory(state: &State, fd: RawFd) -> Option<String> {
    let name = system::with_path(fd, |path| state.relative_path(path).map(<[u8]>::to_vec))??;
    String::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(['/', '\n']))
}

/// Records that a file was created.
pub(crate) fn log_created(state: &State, fd: RawFd, inode: u64) {
    if let Some(name) = name_in_data_directory(state, fd) {
        with_names_log(state, |log| log.append(&NameChange::Created { name, inode }));
    }
}

/// Records that a file is about to be removed.
fn log_removal(state: &State, file: &File) {
    let Some(name) = name_in_data_directory(state, file.as_raw_fd()) else { return };
    let inode = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.ino(),
        _ => return,
    };
    with_names_log(state, |log| {
        // The removal is recorded only if a link to the file was kept, because otherwise a power cut could not restore it.
        if log.keep_removed_file(&state.data.join(&name), inode) {
            log.append(&NameChange::Removed { name, inode })
        } else {
            Ok(())
        }
    });
}

/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn unlink(state: &State, directory: RawFd, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        if flags & libc::AT_REMOVEDIR == 0
            && let Some(file) = system::open_for_reading(directory, path)
        {
            log_removal(state, &file);
        }
        system::unlinkat(directory, path, flags)
    }
}

/// Records that a name in the data directory is about to be renamed to another name there. A file that comes from outside counts as
/// synced, and a file that moves outside stays there after a power cut.
///
/// # Safety
/// The paths end with a zero.
pub(crate) unsafe fn log_rename(state: &State, from: (RawFd, *const c_char), to: (RawFd, *const c_char)) {
    // SAFETY: the caller keeps the contract of this function.
    let (file, replaced) =
        unsafe { (system::open_for_reading(from.0, from.1), system::open_for_reading(to.0, to.1)) };
    if let Some(replaced) = &replaced {
        log_removal(state, replaced);
    }
    // SAFETY: the caller keeps the contract of this function.
    let last = unsafe { std::ffi::CStr::from_ptr(to.1) }.to_bytes().rsplit(|byte| *byte == b'/').next();
    if let Some(from) = file.and_then(|file| name_in_data_directory(state, file.as_raw_fd()))
        && let Some(Ok(to)) = last.map(|last| String::from_utf8(last.to_vec()))
    {
        with_names_log(state, |log| log.append(&NameChange::Renamed { from, to }));
    }
}

/// Records that the data directory was synced.
pub(crate) fn log_synced(state: &State) {
    with_names_log(state, NamesLog::forget_synced);
}
