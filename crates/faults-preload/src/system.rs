//! System calls that are made directly, because this library replaces libc's functions for them.

use std::ffi::{CStr, c_int, c_void};
use std::fs::{File, Metadata};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};

use libc::{clockid_t, mode_t, size_t, ssize_t, timespec};

/// The longest path of the system, in bytes.
const MAX_PATH_BYTES: usize = libc::PATH_MAX as usize;

/// Sets `errno` and returns -1.
pub(crate) fn set_errno(error: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn openat(directory: RawFd, path: *const i8, flags: c_int, mode: mode_t) -> RawFd {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { libc::syscall(libc::SYS_openat, directory, path, flags, c_int_of(mode)) as RawFd }
}

/// Converts a mode to the type with which C passes it to a variadic function.
fn c_int_of(mode: mode_t) -> c_int {
    mode as c_int
}

pub(crate) fn close(fd: RawFd) -> c_int {
    // SAFETY: closing a number is memory-safe; the caller owns the descriptor.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

/// # Safety
/// `buffer` has `length` bytes.
pub(crate) unsafe fn write(fd: RawFd, buffer: *const c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { libc::syscall(libc::SYS_write, fd, buffer, length) as ssize_t }
}

/// # Safety
/// `buffer` has `length` bytes.
pub(crate) unsafe fn pwrite(fd: RawFd, buffer: *const c_void, length: size_t, offset: i64) -> ssize_t {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, length, offset) as ssize_t }
}

pub(crate) fn ftruncate(fd: RawFd, length: i64) -> c_int {
    // SAFETY: the call gets only numbers, no pointers.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) as c_int }
}

/// Calls `fsync` or, if only the content is to be synced, `fdatasync`.
pub(crate) fn sync(fd: RawFd, content_alone: bool) -> c_int {
    let number = if content_alone { libc::SYS_fdatasync } else { libc::SYS_fsync };
    // SAFETY: the call gets only numbers, no pointers.
    unsafe { libc::syscall(number, fd) as c_int }
}

/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn unlinkat(directory: RawFd, path: *const i8, flags: c_int) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) as c_int }
}

/// # Safety
/// `time` can be written to.
pub(crate) unsafe fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller keeps the contract of this function.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int }
}

/// Calls `act` with the path that the kernel has for a descriptor's file. Allocates no memory, because an allocator may call this.
pub(crate) fn with_path<T>(fd: RawFd, act: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let (mut link, mut path) = ([0_u8; 32], [0_u8; MAX_PATH_BYTES]);
    let link = proc_link(fd, &mut link);
    // SAFETY: `link` ends with a zero, and `path` has `MAX_PATH_BYTES` bytes.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), MAX_PATH_BYTES) };
    Some(act(path.get(..usize::try_from(length).ok()?)?))
}

/// Writes the path `/proc/self/fd/N` of a descriptor into the buffer.
fn proc_link(fd: RawFd, buffer: &mut [u8; 32]) -> &CStr {
    use std::io::Write;
    let _ = write!(buffer.as_mut_slice(), "/proc/self/fd/{fd}\0");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// The metadata of the file of a descriptor that the program owns.
pub(crate) fn metadata(fd: RawFd) -> std::io::Result<Metadata> {
    // SAFETY: the descriptor is the program's, and is not closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }).metadata()
}

/// Opens another descriptor for the same file, to read what a write will overwrite. It must stay open as long as the program has a
/// descriptor of the file, because closing any of them releases the program's locks on the file (fcntl(2)).
pub(crate) fn reopen(fd: RawFd) -> Option<File> {
    let mut buffer = [0; 32];
    let link = proc_link(fd, &mut buffer);
    // SAFETY: `link` ends with a zero, and the descriptor is new, so it has no other owner.
    unsafe {
        let fd = openat(libc::AT_FDCWD, link.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0);
        (fd >= 0).then(|| File::from_raw_fd(fd))
    }
}

/// Opens the file at a path, without following a link. The descriptor permits no access, and closing it releases no lock.
///
/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn open_for_reading(directory: RawFd, path: *const i8) -> Option<File> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the caller guarantees that `path` ends with a zero, and the descriptor is new.
    unsafe {
        let fd = openat(directory, path, flags, 0);
        (fd >= 0).then(|| File::from_raw_fd(fd))
    }
}

/// Whether a descriptor is a TCP socket.
pub(crate) fn is_tcp(fd: RawFd) -> bool {
    let option = |name| {
        let (mut value, mut length): (c_int, libc::socklen_t) = (0, 4);
        // SAFETY: `value` has the four bytes that `length` says.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
        (result == 0).then_some(value)
    };
    option(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
        && matches!(option(libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6))
}
