//! The reasons why a store refuses writes, for now or for good.

use rusqlite::ffi;

/// Why every write is refused. Reads continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteFault {
    /// The disk had no room for the last write.
    #[error("the disk is full; writes come back by themselves once there is room")]
    DiskFull,
    /// The disk reported an error for the last write.
    #[error("writes to the disk fail; they come back by themselves once one works")]
    WriteFailed,
    /// Another program has locked the database.
    #[error("another program locks the database; writes come back by themselves once it lets go")]
    Locked,
    /// The database refused the last write.
    #[error("the database refuses writes, and the log says why; they come back by themselves once one works")]
    Refused,
    /// PostgreSQL cannot be reached.
    #[error("the database cannot be reached; writes come back by themselves once it is there")]
    Unreachable,
    /// The installation has a version that this node does not know.
    #[error("this version is too old for the installation; start a newer one")]
    Outdated,
    /// An fsync failed. It cannot be known which data the kernel dropped.
    #[error("an fsync has failed; check the disk, then restart the server")]
    SyncFailed,
    /// The writer thread has panicked.
    #[error("the writer has ended; restart the server")]
    WriterEnded,
}

impl WriteFault {
    /// Every fault there is.
    pub const ALL: [Self; 8] = [
        Self::DiskFull,
        Self::WriteFailed,
        Self::Locked,
        Self::Refused,
        Self::Unreachable,
        Self::Outdated,
        Self::SyncFailed,
        Self::WriterEnded,
    ];

    /// The fault's name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::WriteFailed => "write_failed",
            Self::Locked => "locked",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Outdated => "outdated",
            Self::SyncFailed => "fsync_failed",
            Self::WriterEnded => "writer_ended",
        }
    }

    /// Whether the store refuses writes until a restart.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Outdated | Self::SyncFailed | Self::WriterEnded)
    }

    /// What an error of SQLite says of other writes; `None` if it says nothing of them.
    pub(super) fn from_error(error: &rusqlite::Error) -> Option<Self> {
        match error.sqlite_extended_error_code()? {
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => Some(Self::SyncFailed),
            // The shared memory beside the database could not grow.
            ffi::SQLITE_IOERR_SHMSIZE => Some(Self::DiskFull),
            code => match code & 0xFF {
                ffi::SQLITE_FULL => Some(Self::DiskFull),
                ffi::SQLITE_IOERR => Some(Self::WriteFailed),
                ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => Some(Self::Locked),
                ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM => Some(Self::Refused),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_fsync_error_is_final() {
        let fault_of =
            |code| WriteFault::from_error(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert_eq!(fault_of(ffi::SQLITE_IOERR_FSYNC), Some(WriteFault::SyncFailed));
        assert!(WriteFault::SyncFailed.is_final());
        assert_eq!(fault_of(ffi::SQLITE_FULL), Some(WriteFault::DiskFull));
        assert_eq!(fault_of(ffi::SQLITE_IOERR_WRITE), Some(WriteFault::WriteFailed));
        assert_eq!(fault_of(ffi::SQLITE_BUSY), Some(WriteFault::Locked));
        assert_eq!(fault_of(ffi::SQLITE_CONSTRAINT), None, "a bad row says nothing of others");
        for fault in
            [WriteFault::DiskFull, WriteFault::WriteFailed, WriteFault::Locked, WriteFault::Unreachable]
        {
            assert!(!fault.is_final());
        }
    }
}
