//! A journal of the names that were created, removed and renamed since the last sync of the data directory. As with a file system's
//! journal, a power cut keeps the first few changes and loses the others.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAMES_LOG_FILE: &str = "names.undo";

/// One change of a name in the data directory. A name contains no `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameChange {
    /// A file was created.
    Created {
        /// The file's name.
        name: String,
        /// The file's inode.
        inode: u64,
    },
    /// A name was removed. The file is [kept](NamesLog::keep_file).
    Removed {
        /// The file's name.
        name: String,
        /// The file's inode.
        inode: u64,
    },
    /// A file was renamed to a name that no file has. If another file had the name, `Removed` is recorded first.
    Renamed {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
}

impl NameChange {
    /// The change as one line of the journal. Each field ends with `/`, which a name cannot contain.
    fn to_line(&self) -> String {
        match self {
            Self::Created { name, inode } => format!("made/{name}/{inode}/\n"),
            Self::Removed { name, inode } => format!("removed/{name}/{inode}/\n"),
            Self::Renamed { from, to } => format!("renamed/{from}/{to}/\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_suffix("/")?.splitn(3, '/');
        let (kind, first, second) = (fields.next()?, fields.next()?.to_owned(), fields.next()?);
        match kind {
            "made" => Some(Self::Created { name: first, inode: second.parse().ok()? }),
            "removed" => Some(Self::Removed { name: first, inode: second.parse().ok()? }),
            "renamed" => Some(Self::Renamed { from: first, to: second.to_owned() }),
            _ => None,
        }
    }

    /// Reverts the change. Does nothing if it was recorded but not made.
    pub(crate) fn revert(&self, data: &Path, undo: &Path) -> io::Result<()> {
        match self {
            Self::Created { name, inode } => {
                let path = data.join(name);
                if inode_of(&path)? == Some(*inode) {
                    fs::remove_file(path)?;
                }
            }
            Self::Removed { name, inode } => {
                let (path, kept) = (data.join(name), kept_file_path(undo, *inode));
                if inode_of(&path)?.is_none() && inode_of(&kept)?.is_some() {
                    fs::hard_link(kept, path)?;
                }
            }
            Self::Renamed { from, to } => {
                if inode_of(&data.join(from))?.is_none() && inode_of(&data.join(to))?.is_some() {
                    fs::rename(data.join(to), data.join(from))?;
                }
            }
        }
        Ok(())
    }
}

fn inode_of(path: &Path) -> io::Result<Option<u64>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path of the link that keeps a removed file until the directory is synced.
fn kept_file_path(undo: &Path, inode: u64) -> PathBuf {
    undo.join(format!("{inode}.kept"))
}

/// The journal of changed names that are not synced yet.
#[derive(Debug)]
pub struct NamesLog {
    undo: PathBuf,
    log: File,
}

impl NamesLog {
    /// Opens the journal. Entries of an earlier process remain in it.
    pub fn open(undo: &Path) -> io::Result<Self> {
        let path = undo.join(NAMES_LOG_FILE);
        let log = fs::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let text = fs::read_to_string(&path)?;
        log.set_len(text.rfind('\n').map_or(0, |end| end as u64 + 1))?;
        Ok(Self { undo: undo.to_owned(), log })
    }

    /// Records a change. A removal or renaming must be recorded before it is made, a creation after it.
    pub fn append(&mut self, change: &NameChange) -> io::Result<()> {
        self.log.write_all(change.to_line().as_bytes())
    }

    /// Keeps a link to the file whose name is about to be removed. Returns false if `undo` is on another file system.
    pub fn keep_removed_file(&self, path: &Path, inode: u64) -> bool {
        let kept = kept_file_path(&self.undo, inode);
        match fs::hard_link(path, &kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            result => result.is_ok(),
        }
    }

    /// Clears the journal after the directory was synced.
    pub fn forget_synced(&mut self) -> io::Result<()> {
        let changes = self.changes()?;
        self.log.set_len(0)?;
        for change in changes {
            if let NameChange::Removed { inode, .. } = change {
                match fs::remove_file(kept_file_path(&self.undo, inode)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The changes that are not synced, oldest first.
    pub(crate) fn changes(&self) -> io::Result<Vec<NameChange>> {
        let text = fs::read_to_string(self.undo.join(NAMES_LOG_FILE))?;
        Ok(text.lines().filter_map(NameChange::parse).collect())
    }
}
