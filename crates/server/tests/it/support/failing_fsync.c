/* Stands before the C library's fsync and fdatasync. While the file that FAILING_FSYNC names is there, the next sync of the
 * database's file fails, once: the file is then removed, and the sync after it succeeds though nothing was written, which
 * is what Linux does (Rebello et al., USENIX ATC 2020). */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char NAME[] = "/switchboard.db";

static int is_to_fail(int fd) {
    char link[64], path[PATH_MAX];
    const char *order = getenv("FAILING_FSYNC");
    if (order == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    size_t end = sizeof NAME - 1;
    if (length < (ssize_t)end || memcmp(path + length - end, NAME, end) != 0) return 0;
    return unlink(order) == 0;
}

static int sync_by(long call, int fd) {
    if (is_to_fail(fd)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, fd);
}

int fsync(int fd) { return sync_by(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
