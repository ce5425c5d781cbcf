//! The wrapped functions of libc, under their own names. In place of C's `...` they have a parameter for the mode, which is
//! compatible: the third argument is in its register, or unused.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use faults::KillPoint;
use libc::{clockid_t, iovec, mode_t, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};

use crate::state::{State, state};
use crate::{directory, files, kill, system};

/// # Safety
/// `path` ends with a zero.
unsafe fn open_and_track(directory: RawFd, path: *const c_char, mut flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        let Some(state) = state() else { return system::openat(directory, path, flags, mode) };
        let changing =
            flags & (libc::O_CREAT | libc::O_TRUNC) != 0 && flags & libc::O_TMPFILE != libc::O_TMPFILE;
        let before = if changing { system::open_for_reading(directory, path) } else { None };
        let cuts = flags & libc::O_TRUNC != 0
            && before.as_ref().is_some_and(|file| is_in_data_directory(state, file));
        if cuts {
            flags &= !libc::O_TRUNC;
        }
        let fd = system::openat(directory, path, flags, mode);
        if fd >= 0 {
            files::track_open(state, fd, flags & libc::O_CREAT != 0 && changing && before.is_none());
            if cuts {
                ftruncate(fd, 0);
            }
        }
        fd
    }
}

fn is_in_data_directory(state: &State, file: &File) -> bool {
    system::with_path(file.as_raw_fd(), |path| state.relative_path(path).is_some()).unwrap_or(false)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { open_and_track(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { open_and_track(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { open_and_track(directory, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { open_and_track(directory, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { open_and_track(libc::AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    files::track_close(fd);
    system::close(fd)
}

/// Writes to a data file. Returns `None` if the descriptor is not that of a data file.
///
/// # Safety
/// `buffer` has `length` bytes.
unsafe fn write_data(
    fd: RawFd,
    buffer: *const c_void,
    length: size_t,
    offset: Option<off_t>,
) -> Option<ssize_t> {
    let (state, file) = (state()?, files::find_data_file(fd)?);
    let offset = match offset.map(u64::try_from) {
        Some(Err(_)) => return Some(system::set_errno(libc::EINVAL) as ssize_t),
        Some(Ok(offset)) => Some(offset),
        None => None,
    };
    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: the caller keeps the contract of this function.
    Some(unsafe { file.write(state, fd, (buffer, length), offset) })
}

/// The first piece of a list that is not empty. Writing only this piece is a short write, which every caller must expect.
///
/// # Safety
/// `list` has `count` entries.
unsafe fn first_nonempty_buffer(list: *const iovec, count: c_int) -> (*const c_void, size_t) {
    // SAFETY: the caller keeps the contract of this function.
    let list = unsafe { std::slice::from_raw_parts(list, usize::try_from(count).unwrap_or(0)) };
    let piece = list.iter().find(|piece| piece.iov_len > 0);
    piece.map_or((std::ptr::null(), 0), |piece| (piece.iov_base.cast_const(), piece.iov_len))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        write_data(fd, buffer, length, Some(offset))
            .unwrap_or_else(|| system::pwrite(fd, buffer, length, offset))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { pwrite(fd, buffer, length, offset) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev(fd: c_int, list: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        let (buffer, length) = first_nonempty_buffer(list, count);
        pwrite(fd, buffer, length, offset)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev64(fd: c_int, list: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { pwritev(fd, list, count, offset) }
}

/// Called after a send with its result: kills the program if that is the kill point, otherwise returns the result unchanged.
fn count_socket_write_and_kill(fd: RawFd, result: ssize_t) -> ssize_t {
    if result > 0
        && let Some(state) = state()
        && state.control.counts_socket_writes()
        && system::is_tcp(fd)
    {
        kill::kill_at(&state.control, KillPoint::AfterSocketWrite(0));
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        write_data(fd, buffer, length, None)
            .unwrap_or_else(|| count_socket_write_and_kill(fd, system::write(fd, buffer, length)))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, list: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        if files::find_data_file(fd).is_some() {
            let (buffer, length) = first_nonempty_buffer(list, count);
            return write(fd, buffer, length);
        }
        count_socket_write_and_kill(fd, libc::syscall(libc::SYS_writev, fd, list, count) as ssize_t)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, buffer: *const c_void, length: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { sendto(fd, buffer, length, flags, std::ptr::null(), 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_length: socklen_t,
) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        count_socket_write_and_kill(
            fd,
            libc::syscall(libc::SYS_sendto, fd, buffer, length, flags, to, to_length) as ssize_t,
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        count_socket_write_and_kill(fd, libc::syscall(libc::SYS_sendmsg, fd, message, flags) as ssize_t)
    }
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    match (state(), files::find_data_file(fd)) {
        (Some(state), Some(file)) => {
            let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.truncate(state, fd, length)
        }
        _ => system::ftruncate(fd, length),
    }
}

#[unsafe(no_mangle)]
extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    ftruncate(fd, length)
}

fn sync(fd: RawFd, content_alone: bool) -> c_int {
    let Some(state) = state() else { return system::sync(fd, content_alone) };
    let file = files::find_data_file(fd);
    if file.is_some() || files::is_directory(fd) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a slow disk blocks the thread that syncs; that is what is played"
        )]
        std::thread::sleep(state.control.sync_delay());
    }
    if let Some(file) = file {
        let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        return file.sync(state, fd, content_alone);
    }
    let result = system::sync(fd, content_alone);
    if result == 0 && files::is_directory(fd) {
        directory::log_synced(state);
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, false)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, true)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        match state() {
            Some(state) => directory::unlink(state, directory, path, flags),
            None => system::unlinkat(directory, path, flags),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { renameat(libc::AT_FDCWD, from, libc::AT_FDCWD, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(from_in: c_int, from: *const c_char, to_in: c_int, to: *const c_char) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        if let Some(state) = state() {
            directory::log_rename(state, (from_in, from), (to_in, to));
        }
        libc::syscall(libc::SYS_renameat2, from_in, from, to_in, to, 0) as c_int
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        let result = system::clock_gettime(clock, time);
        if clock == libc::CLOCK_REALTIME
            && result == 0
            && let Some(state) = state()
        {
            (*time).tv_sec += state.control.clock_offset();
        }
        result
    }
}
