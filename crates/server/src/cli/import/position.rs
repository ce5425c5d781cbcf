//! How far an import has come, in a file beside its source. Without the file everything is sent again, and is a duplicate.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often the file is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// How far an import has come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Position {
    /// The lines that the server has answered.
    pub(super) records: u64,
    /// The lines that an earlier run has sent, which this one passes over.
    pub(super) resumed: u64,
}

/// What tells a source from another of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    bytes: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    changed: u128,
}

impl Source {
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self { bytes: 0, changed: 0 });
        }
        let about = path.metadata().with_context(|| format!("cannot open {}", path.display()))?;
        let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self { bytes: about.len(), changed: changed.unwrap_or_default().as_millis() })
    }
}

/// The file of a position.
#[derive(Debug)]
pub(super) struct PositionFile {
    path: PathBuf,
    url: String,
    written: Instant,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    url: String,
    source: Source,
    records: u64,
}

impl PositionFile {
    /// The file beside a source; `None` for stdin.
    pub(super) fn beside(source: &Path, url: &str) -> Option<Self> {
        let mut name = source.file_name().filter(|name| *name != "-")?.to_owned();
        name.push(".import-position");
        Some(Self { path: source.with_file_name(name), url: url.to_owned(), written: Instant::now() })
    }

    /// The position of an earlier run, if it was with this source and this server.
    pub(super) fn read(&self, source: &Source) -> Option<Position> {
        let stored: Stored = serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
        let records = (stored.url == self.url && stored.source == *source).then_some(stored.records)?;
        Some(Position { records, resumed: records })
    }

    pub(super) fn write_if_due(&mut self, source: &Source, position: &Position) {
        if self.written.elapsed() >= WRITE_INTERVAL {
            self.written = Instant::now();
            self.write(source, position);
        }
    }

    /// Replaces the file. A failure costs only time, because what was sent is a duplicate.
    pub(super) fn write(&self, source: &Source, position: &Position) {
        let stored = Stored { url: self.url.clone(), source: source.clone(), records: position.records };
        let next = self.path.with_extension("import-position.new");
        let Ok(json) = serde_json::to_vec(&stored) else { return };
        let _ = std::fs::write(&next, json).and_then(|()| std::fs::rename(&next, &self.path));
    }

    pub(super) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
