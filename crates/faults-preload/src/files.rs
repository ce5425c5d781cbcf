//! The program's open files below the data directory.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use faults::{DroppedPages, FileId, KillPoint, UndoLog};

use crate::kill::{self, abort_with};
use crate::state::State;
use crate::{directory, system};

/// The kind of each descriptor. Most are neither a data file nor the data directory, and only this lookup slows them down.
static DESCRIPTOR_KINDS: [AtomicU8; 1 << 16] = [const { AtomicU8::new(KIND_OTHER) }; 1 << 16];
const KIND_OTHER: u8 = 0;
const KIND_FILE: u8 = 1;
const KIND_DIRECTORY: u8 = 2;

static OPEN_FILES: Mutex<OpenFiles> =
    Mutex::new(OpenFiles { descriptors: BTreeMap::new(), inodes: BTreeMap::new() });

/// The open data files. A file has one entry, even if it is open several times.
struct OpenFiles {
    descriptors: BTreeMap<RawFd, Arc<Mutex<DataFile>>>,
    inodes: BTreeMap<u64, Weak<Mutex<DataFile>>>,
}

/// One data file. Its lock is held while the file is changed or synced, so that its undo log is consistent.
pub(crate) struct DataFile {
    /// This library's own descriptor, because the program's descriptor may not be readable.
    own_handle: File,
    is_wal: bool,
    /// The undo log; `None` for shared memory, which is never synced.
    log: Option<UndoLog>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn descriptor_kind(fd: RawFd) -> Option<&'static AtomicU8> {
    DESCRIPTOR_KINDS.get(usize::try_from(fd).ok()?)
}

/// The data file that a descriptor refers to; `None` if it refers to something else.
pub(crate) fn find_data_file(fd: RawFd) -> Option<Arc<Mutex<DataFile>>> {
    if descriptor_kind(fd)?.load(SeqCst) != KIND_FILE {
        return None;
    }
    lock(&OPEN_FILES).descriptors.get(&fd).cloned()
}

/// Whether the descriptor refers to the data directory.
pub(crate) fn is_directory(fd: RawFd) -> bool {
    descriptor_kind(fd).is_some_and(|kind| kind.load(SeqCst) == KIND_DIRECTORY)
}

/// Registers a new descriptor. `made`: whether the call that opened it created the file.
pub(crate) fn track_open(state: &State, fd: RawFd, made: bool) {
    let Some(Some(length)) = system::with_path(fd, |path| state.relative_path(path).map(<[u8]>::len)) else {
        return;
    };
    let Some(kind) = descriptor_kind(fd) else { abort_with("too many descriptors", &fd) };
    if length == 0 {
        return kind.store(KIND_DIRECTORY, SeqCst);
    }
    let id = match system::metadata(fd) {
        Ok(metadata) if metadata.is_file() => FileId::from_metadata(&metadata),
        _ => return,
    };
    if made {
        directory::log_created(state, fd, id.inode);
    }
    let mut open = lock(&OPEN_FILES);
    let file = match open.inodes.get(&id.inode).and_then(Weak::upgrade) {
        Some(file) => file,
        None => {
            // If the file cannot be opened for writing, the program cannot change it either, so it needs no undo log.
            let Some(own) = system::reopen(fd) else { return };
            let file = Arc::new(Mutex::new(DataFile::new(state, fd, own, id, made)));
            open.inodes.retain(|_, file| file.strong_count() > 0);
            open.inodes.insert(id.inode, Arc::downgrade(&file));
            file
        }
    };
    open.descriptors.insert(fd, file);
    kind.store(KIND_FILE, SeqCst);
}

/// Unregisters a descriptor that is about to be closed.
pub(crate) fn track_close(fd: RawFd) {
    if let Some(kind) = descriptor_kind(fd)
        && kind.swap(KIND_OTHER, SeqCst) == KIND_FILE
    {
        let file = lock(&OPEN_FILES).descriptors.remove(&fd);
        drop(file);
    }
}

impl DataFile {
    fn new(state: &State, fd: RawFd, own_handle: File, id: FileId, made: bool) -> Self {
        let asked = |question: fn(&Path) -> bool| {
            system::with_path(fd, |path| question(Path::new(std::ffi::OsStr::from_bytes(path))))
                .unwrap_or(false)
        };
        let log = (!asked(faults::is_shared_memory)).then(|| {
            UndoLog::open(&state.undo, id, made)
                .unwrap_or_else(|error| abort_with("cannot open an undo log", &error))
        });
        Self { own_handle, is_wal: asked(faults::is_wal), log }
    }

    fn length(&self) -> u64 {
        match self.own_handle.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => abort_with("cannot ask for a file's length", &error),
        }
    }

    /// # Safety
    /// `buffer` has `length` bytes.
    pub(crate) unsafe fn write(
        &mut self,
        state: &State,
        fd: RawFd,
        (buffer, length): (*const c_void, usize),
        offset: Option<u64>,
    ) -> isize {
        let control = &state.control;
        let end = self.length();
        let at = offset.unwrap_or_else(|| write_position(fd, end));
        let growth = (at + length as u64).saturating_sub(end.max(at));
        let granted = control.take_space(growth);
        let mut length = length - (growth - granted) as usize;
        if length == 0 && growth > 0 {
            return system::set_errno(libc::ENOSPC) as isize;
        }
        let tears = self.log.is_some() && control.is_kill_due(KillPoint::InWrite(0));
        if tears {
            length /= 2;
        }
        if let Some(log) = &mut self.log
            && let Err(error) = log.before_write(&self.own_handle, at, length as u64)
        {
            abort_with("cannot note a write", &error);
        }
        // SAFETY: the caller guarantees the length of `buffer`, and `length` has only become less.
        let written = unsafe {
            match offset {
                Some(offset) => system::pwrite(fd, buffer, length, offset as i64),
                None => system::write(fd, buffer, length),
            }
        };
        if tears {
            kill::kill_now();
        }
        if written >= 0 && self.log.is_some() {
            control.count_write(written as u64);
            kill::kill_at(control, KillPoint::AtWrite(0));
        }
        written
    }

    pub(crate) fn truncate(&mut self, state: &State, fd: RawFd, length: i64) -> c_int {
        let before = self.length();
        let Ok(after) = u64::try_from(length) else { return system::ftruncate(fd, length) };
        if let Some(log) = &mut self.log
            && let Err(error) = log.before_truncate(&self.own_handle, after)
        {
            abort_with("cannot note a truncation", &error);
        }
        let result = system::ftruncate(fd, length);
        if result == 0 {
            state.control.return_space(before.saturating_sub(after));
        }
        result
    }

    pub(crate) fn sync(&mut self, state: &State, fd: RawFd, content_alone: bool) -> c_int {
        let control = &state.control;
        let Some(log) = &mut self.log else { return system::sync(fd, content_alone) };
        if self.is_wal {
            kill::kill_at(control, KillPoint::BeforeWalSync(0));
        }
        if let Some(dropped) = control.next_sync_failure(self.is_wal) {
            let result = match dropped {
                DroppedPages::AtOnce => log.revert(&self.own_handle),
                DroppedPages::Later => log.discard_unsynced(&self.own_handle),
            };
            return match result {
                Ok(()) => system::set_errno(libc::EIO),
                Err(error) => abort_with("cannot drop what was written", &error),
            };
        }
        let result = system::sync(fd, content_alone);
        if result == 0 {
            if let Err(error) = log.forget_synced() {
                abort_with("cannot note a sync", &error);
            }
            control.count_sync(self.is_wal);
            if self.is_wal {
                kill::kill_at(control, KillPoint::AfterWalSync(0));
            }
        }
        result
    }
}

/// The position at which a call of `write` without an offset writes.
fn write_position(fd: RawFd, end: u64) -> u64 {
    // SAFETY: the call gets only numbers, no pointers.
    unsafe {
        if libc::fcntl(fd, libc::F_GETFL) & libc::O_APPEND != 0 {
            return end;
        }
        u64::try_from(libc::lseek64(fd, 0, libc::SEEK_CUR)).unwrap_or(0)
    }
}
