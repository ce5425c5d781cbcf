//! The memory that the harness and the preloaded library share: the harness sets faults in it, and the library reads them while the
//! program runs. It is one page of a file that both map, so it survives the program's death.

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use memmap2::MmapRaw;

use crate::{ENV_CONTROL, ENV_DATA, ENV_UNDO, PowerCutResult};

/// The length of the control file, in bytes.
const CONTROL_FILE_BYTES: u64 = 4096;

/// The value of `space` that means that the disk has no limit.
const UNLIMITED_SPACE: u64 = u64::MAX;

/// Which files a failure of syncs applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncFilter {
    /// The failure applies to all files.
    Any,
    /// The failure applies only to write-ahead logs, which a commit syncs.
    Wal,
    /// The failure applies to all other files: the database, which a checkpoint syncs.
    Other,
}

/// What happens to the pages that a failed sync should have written. Linux marks them as clean, so no later sync writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedPages {
    /// The pages are read from the disk again: everything that was written since the last sync is lost at once.
    AtOnce,
    /// The pages stay in the page cache, where every process reads them, also after a restart of the program; the next power
    /// cut reveals that they never reached the disk.
    Later,
}

/// The call at which the program is killed. Calls are counted from the moment at which the kill point is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillPoint {
    /// Before the nth sync of a write-ahead log: the commit is not durable at all.
    BeforeWalSync(u64),
    /// After the nth successful sync of a write-ahead log: the commit is durable, but no client has its answer.
    AfterWalSync(u64),
    /// After the nth successful write to a TCP socket that follows a sync of a write-ahead log. For n = 1, one client has the
    /// answer.
    AfterSocketWrite(u64),
    /// After the nth write to a data file, which is complete in the page cache.
    AtWrite(u64),
    /// In the middle of the nth write to a data file: half of its bytes are in the page cache.
    InWrite(u64),
}

impl KillPoint {
    fn code_and_number(self) -> (u64, u64) {
        match self {
            Self::BeforeWalSync(n) => (1, n),
            Self::AfterWalSync(n) => (2, n),
            Self::AfterSocketWrite(n) => (3, n),
            Self::AtWrite(n) => (4, n),
            Self::InWrite(n) => (5, n),
        }
    }

    fn code(self) -> u64 {
        self.code_and_number().0
    }
}

/// Counts of file operations and injected faults, of all processes that attached to the control since it was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many syncs of data files succeeded.
    pub syncs: u64,
    /// How many of the successful syncs were of a write-ahead log.
    pub wal_syncs: u64,
    /// How many syncs failed because of a fault.
    pub failed_syncs: u64,
    /// How many writes to data files there were.
    pub writes: u64,
    /// How many bytes were written to data files.
    pub bytes: u64,
    /// How many writes failed or were short because the disk was full.
    pub refused_writes: u64,
    /// How many kill points were reached.
    pub kills: u64,
}

/// The page of memory that the harness and the library map. The library uses it directly; a harness uses [`Control`].
#[derive(Debug)]
#[repr(C)]
pub struct SharedControl {
    fail_sync: AtomicU64,
    fail_which: AtomicU64,
    fail_later: AtomicU64,
    space: AtomicU64,
    delay_sync_us: AtomicU64,
    clock_offset_s: AtomicI64,
    kill_point: AtomicU64,
    kill_left: AtomicU64,
    wal_synced: AtomicU64,
    syncs: AtomicU64,
    wal_syncs: AtomicU64,
    failed_syncs: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    refused_writes: AtomicU64,
    kills: AtomicU64,
}

/// The shared page, mapped into this process's memory.
#[derive(Debug)]
pub struct MappedControl(MmapRaw);

impl MappedControl {
    /// Maps the control file that a harness has created.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < CONTROL_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a control file"));
        }
        MmapRaw::map_raw(&file).map(Self)
    }
}

impl Deref for MappedControl {
    type Target = SharedControl;

    fn deref(&self) -> &SharedControl {
        const { assert!(size_of::<SharedControl>() as u64 <= CONTROL_FILE_BYTES) };
        // SAFETY: the mapping is CONTROL_FILE_BYTES bytes long, begins at a page, and lives as long as `self`, and no process
        // shortens the file. Any bytes are valid atomics, and all processes access them as atomics.
        #[expect(unsafe_code, reason = "there is no other way to see mapped memory as atomics")]
        unsafe {
            &*self.0.as_ptr().cast::<SharedControl>()
        }
    }
}

impl SharedControl {
    /// Whether this sync must fail, and what happens to its data. Reduces the number of syncs that must still fail.
    pub fn next_sync_failure(&self, wal: bool) -> Option<DroppedPages> {
        let concerned = match self.fail_which.load(SeqCst) {
            0 => true,
            1 => wal,
            _ => !wal,
        };
        if !concerned || self.fail_sync.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return None;
        }
        self.failed_syncs.fetch_add(1, SeqCst);
        Some(if self.fail_later.load(SeqCst) == 0 { DroppedPages::AtOnce } else { DroppedPages::Later })
    }

    /// Takes up to `wanted` bytes from the free space of the simulated disk. Returns how many bytes it took.
    pub fn take_space(&self, wanted: u64) -> u64 {
        let left = self.space.fetch_update(SeqCst, SeqCst, |left| {
            (left != UNLIMITED_SPACE && wanted != 0).then(|| left.saturating_sub(wanted))
        });
        match left {
            Ok(left) if left < wanted => {
                self.refused_writes.fetch_add(1, SeqCst);
                left
            }
            _ => wanted,
        }
    }

    /// Adds the bytes that a truncated file freed to the free space of the simulated disk.
    pub fn return_space(&self, bytes: u64) {
        let _ = self.space.fetch_update(SeqCst, SeqCst, |left| {
            (left != UNLIMITED_SPACE).then(|| left.saturating_add(bytes))
        });
    }

    /// How long each sync must be delayed.
    pub fn sync_delay(&self) -> Duration {
        Duration::from_micros(self.delay_sync_us.load(SeqCst))
    }

    /// By how many seconds the wall clock is ahead of the real time.
    pub fn clock_offset(&self) -> i64 {
        self.clock_offset_s.load(SeqCst)
    }

    /// Counts a write of this many bytes.
    pub fn count_write(&self, bytes: u64) {
        self.writes.fetch_add(1, SeqCst);
        self.bytes.fetch_add(bytes, SeqCst);
    }

    /// Counts a successful sync.
    pub fn count_sync(&self, wal: bool) {
        self.syncs.fetch_add(1, SeqCst);
        if wal {
            self.wal_syncs.fetch_add(1, SeqCst);
            self.wal_synced.store(1, SeqCst);
        }
    }

    /// Whether the next thing that counts towards the kill point is a write to a socket.
    pub fn counts_socket_writes(&self) -> bool {
        self.kill_point.load(SeqCst) == KillPoint::AfterSocketWrite(0).code()
            && self.wal_synced.load(SeqCst) != 0
    }

    /// Whether the program must be killed at this point. Returns true only once. The number in `point` is ignored.
    pub fn is_kill_due(&self, point: KillPoint) -> bool {
        let reached =
            self.kill_point.load(SeqCst) == point.code() && self.kill_left.fetch_sub(1, SeqCst) == 1;
        if reached {
            self.kill_point.store(0, SeqCst);
            self.kills.fetch_add(1, SeqCst);
        }
        reached
    }
}

/// The harness's side of the shared memory: sets faults, reads counts, cuts the power.
#[derive(Debug)]
pub struct Control {
    shared: MappedControl,
    path: PathBuf,
    data: PathBuf,
    undo: PathBuf,
}

impl Control {
    /// Creates a control without faults, in a new file at `path`. `data` is the directory whose files get the faults. It need not
    /// exist yet, but its parent must. `undo` is the directory for unsynced data. It is created, and is best on the same file
    /// system. Neither directory may contain the other.
    pub fn create(path: &Path, data: &Path, undo: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(CONTROL_FILE_BYTES)?;
        fs::create_dir_all(undo)?;
        let control = Self {
            shared: MappedControl::open(path)?,
            path: fs::canonicalize(path)?,
            data: absolute(data)?,
            undo: fs::canonicalize(undo)?,
        };
        if control.undo.starts_with(&control.data) || control.data.starts_with(&control.undo) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "`undo` and `data` must be apart"));
        }
        control.set_full_after(None);
        Ok(control)
    }

    /// Sets the environment of a command, so that it runs with the library of [`library_path`](crate::library_path).
    pub fn command_env(&self, command: &mut Command) -> io::Result<()> {
        command.env("LD_PRELOAD", crate::library_path()?);
        command.env(ENV_DATA, &self.data).env(ENV_CONTROL, &self.path).env(ENV_UNDO, &self.undo);
        Ok(())
    }

    /// Makes the next `count` syncs of files fail with EIO and drop the data that they should have written. Syncs of directories
    /// succeed.
    pub fn fail_sync(&self, count: u64, which: SyncFilter, dropped: DroppedPages) {
        self.shared.fail_sync.store(0, SeqCst);
        self.shared.fail_which.store(which as u64, SeqCst);
        self.shared.fail_later.store(dropped as u64, SeqCst);
        self.shared.fail_sync.store(count, SeqCst);
    }

    /// Limits the space on the disk. With `Some`, all files together can grow by this many bytes; then a write beyond a file's end
    /// fails with ENOSPC, but writes within the file succeed. Truncating a file frees its bytes. `None` ends the limit.
    pub fn set_full_after(&self, after: Option<u64>) {
        self.shared.space.store(after.unwrap_or(UNLIMITED_SPACE), SeqCst);
    }

    /// Delays each sync.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.shared.delay_sync_us.store(delay.as_micros().try_into().unwrap_or(u64::MAX), SeqCst);
    }

    /// Offsets the wall clock (`CLOCK_REALTIME`) by this many seconds. Other clocks do not change.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.shared.clock_offset_s.store(seconds, SeqCst);
    }

    /// Sets the kill point in place of the previous one. Its number (at least 1) counts calls from now on. If this process does not
    /// reach the kill point, it remains set for the next process.
    pub fn set_kill(&self, point: Option<KillPoint>) {
        let (code, count) = point.map_or((0, 0), KillPoint::code_and_number);
        self.shared.kill_point.store(0, SeqCst);
        self.shared.wal_synced.store(0, SeqCst);
        self.shared.kill_left.store(count, SeqCst);
        self.shared.kill_point.store(code, SeqCst);
    }

    /// Ends all faults. The counts stay.
    pub fn clear_faults(&self) {
        self.fail_sync(0, SyncFilter::Any, DroppedPages::AtOnce);
        self.set_full_after(None);
        self.set_sync_delay(Duration::ZERO);
        self.set_clock_offset(0);
        self.set_kill(None);
    }

    /// Whether a kill point is set that was not reached yet.
    pub fn has_pending_kill(&self) -> bool {
        self.shared.kill_point.load(SeqCst) != 0
    }

    /// How many syncs must still fail.
    pub fn sync_failures_left(&self) -> u64 {
        self.shared.fail_sync.load(SeqCst)
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let shared = &*self.shared;
        Counts {
            syncs: shared.syncs.load(SeqCst),
            wal_syncs: shared.wal_syncs.load(SeqCst),
            failed_syncs: shared.failed_syncs.load(SeqCst),
            writes: shared.writes.load(SeqCst),
            bytes: shared.bytes.load(SeqCst),
            refused_writes: shared.refused_writes.load(SeqCst),
            kills: shared.kills.load(SeqCst),
        }
    }

    /// Calls [`cut_power`](crate::cut_power) with this control's directories.
    pub fn cut_power(&self, rng: &mut fastrand::Rng) -> io::Result<PowerCutResult> {
        crate::cut_power(&self.data, &self.undo, rng)
    }

    /// The directory whose files get the faults, absolute and without links.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

/// The path that the kernel has for a file, even if its last part does not exist yet.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(path)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
                _ => Err(error),
            }
        }
        known => known,
    }
}
