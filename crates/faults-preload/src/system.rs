//! System calls past libc's functions, which are this library's own.

use std::ffi::{CStr, c_int, c_void};
use std::fs::{File, Metadata};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};

use libc::{clockid_t, mode_t, size_t, ssize_t, timespec};

/// So long is the longest path.
const PATH: usize = libc::PATH_MAX as usize;

/// Sets `errno` and returns what a failed call does.
pub(crate) fn fail(error: c_int) -> c_int {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn openat(directory: RawFd, path: *const i8, flags: c_int, mode: mode_t) -> RawFd {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_openat, directory, path, flags, c_int_of(mode)) as RawFd }
}

/// What a variadic call passes for a mode.
fn c_int_of(mode: mode_t) -> c_int {
    mode as c_int
}

pub(crate) fn close(fd: RawFd) -> c_int {
    // SAFETY: closes a number; whose it is, the caller of close(2) knows.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

/// # Safety
/// `buffer` has `length` bytes.
pub(crate) unsafe fn write(fd: RawFd, buffer: *const c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_write, fd, buffer, length) as ssize_t }
}

/// # Safety
/// `buffer` has `length` bytes.
pub(crate) unsafe fn pwrite(fd: RawFd, buffer: *const c_void, length: size_t, offset: i64) -> ssize_t {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, length, offset) as ssize_t }
}

pub(crate) fn ftruncate(fd: RawFd, length: i64) -> c_int {
    // SAFETY: only numbers.
    unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) as c_int }
}

/// `fsync` or, for the content alone, `fdatasync`.
pub(crate) fn sync(fd: RawFd, content_alone: bool) -> c_int {
    let number = if content_alone { libc::SYS_fdatasync } else { libc::SYS_fsync };
    // SAFETY: only numbers.
    unsafe { libc::syscall(number, fd) as c_int }
}

/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn unlinkat(directory: RawFd, path: *const i8, flags: c_int) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) as c_int }
}

/// # Safety
/// `time` can be written to.
pub(crate) unsafe fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int }
}

/// Where a descriptor's file is, by the kernel's name for it. Allocates nothing.
pub(crate) fn with_path<T>(fd: RawFd, act: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let (mut link, mut path) = ([0_u8; 32], [0_u8; PATH]);
    let link = proc_link(fd, &mut link);
    // SAFETY: `link` ends with a zero, `path` is as long as it is said to be.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), PATH) };
    Some(act(path.get(..usize::try_from(length).ok()?)?))
}

/// `/proc/self/fd/N`.
fn proc_link(fd: RawFd, buffer: &mut [u8; 32]) -> &CStr {
    use std::io::Write;
    let _ = write!(buffer.as_mut_slice(), "/proc/self/fd/{fd}\0");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// What the program's descriptor is.
pub(crate) fn metadata(fd: RawFd) -> std::io::Result<Metadata> {
    // SAFETY: the descriptor is the program's, and is not closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }).metadata()
}

/// Another descriptor for the same file, to read what is overwritten. It must not be closed while the program
/// has one: that would let go of the program's locks (fcntl(2)).
pub(crate) fn reopen(fd: RawFd) -> Option<File> {
    let mut buffer = [0; 32];
    let link = proc_link(fd, &mut buffer);
    // SAFETY: `link` ends with a zero, and the descriptor is new: nobody else has it.
    unsafe {
        let fd = openat(libc::AT_FDCWD, link.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0);
        (fd >= 0).then(|| File::from_raw_fd(fd))
    }
}

/// What a path names now, without following it if it is a link; as a descriptor that can do nothing. Closing
/// it lets go of no lock.
///
/// # Safety
/// `path` ends with a zero.
pub(crate) unsafe fn look(directory: RawFd, path: *const i8) -> Option<File> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the caller's, and the descriptor is new.
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
