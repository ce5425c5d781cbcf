//! Metrics of an SQLite database, read from its files at each scrape.

use std::fmt::Error;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::process::MetricFamilies;
use switchboard_store::inspect::Inspector;

/// Collects the sizes of the files and of their file system, and the time of the last backup. On PostgreSQL, or before the server has started, there are none.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreFiles(Arc<OnceLock<Inspector>>);

impl StoreFiles {
    /// Sets the database.
    pub(super) fn set(&self, inspector: Inspector) {
        // A server sets it once.
        let _ = self.0.set(inspector);
    }
}

impl Collector for StoreFiles {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let Some(inspector) = self.0.get() else { return Ok(()) };
        let mut families = MetricFamilies(encoder);
        let sizes = inspector.file_sizes();
        let (database, wal) =
            (sizes.map(|sizes| ConstGauge::new(sizes.0)), sizes.map(|sizes| ConstGauge::new(sizes.1)));
        let bytes = Some(&Unit::Bytes);
        families.add(("switchboard_database_size", "The size of the SQLite database"), bytes, database)?;
        families.add(("switchboard_wal_size", "The size of the write-ahead log"), bytes, wal)?;
        let Inspector::Directory(data) = inspector else { return Ok(()) };
        let disk = rustix::fs::statvfs(data).ok();
        let free = disk.as_ref().map(|disk| ConstGauge::new(disk.f_bavail.saturating_mul(disk.f_frsize)));
        let size = disk.as_ref().map(|disk| ConstGauge::new(disk.f_blocks.saturating_mul(disk.f_frsize)));
        let help = "The free space on the file system of the SQLite database";
        families.add(("switchboard_disk_free", help), bytes, free)?;
        families.add(
            ("switchboard_disk_size", "The size of the file system of the SQLite database"),
            bytes,
            size,
        )?;
        let last = inspector.last_backup().map(|time| ConstGauge::new(time.as_millis() / 1_000));
        let help = "When `switchboard backup` last made a backup of this database, since 1970";
        families.add(("switchboard_backup_timestamp", help), Some(&Unit::Seconds), last)
    }
}
