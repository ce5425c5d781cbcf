//! What the last sync of the data directory left, and which names were made, removed and changed since. A
//! journal like that of a file system: a power cut keeps a beginning of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOG: &str = "names.undo";

/// One change of a name in the data directory. Names are of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameChange {
    /// There is a new file.
    Made {
        /// Its name.
        name: String,
        /// Its inode.
        inode: u64,
    },
    /// A name is gone. The file is [buried](NamesLog::bury).
    Removed {
        /// Its name.
        name: String,
        /// Its inode.
        inode: u64,
    },
    /// A file has another name, which was free: what had it before is `Removed` first.
    Renamed {
        /// The name it had.
        from: String,
        /// The name it has.
        to: String,
    },
}

impl NameChange {
    /// One line of the log. Fields end with `/`, which is in no name; the line with a newline after the last
    /// of three.
    fn line(&self) -> String {
        match self {
            Self::Made { name, inode } => format!("made/{name}/{inode}/\n"),
            Self::Removed { name, inode } => format!("removed/{name}/{inode}/\n"),
            Self::Renamed { from, to } => format!("renamed/{from}/{to}/\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_suffix("/")?.splitn(3, '/');
        let (kind, first, second) = (fields.next()?, fields.next()?.to_owned(), fields.next()?);
        match kind {
            "made" => Some(Self::Made { name: first, inode: second.parse().ok()? }),
            "removed" => Some(Self::Removed { name: first, inode: second.parse().ok()? }),
            "renamed" => Some(Self::Renamed { from: first, to: second.to_owned() }),
            _ => None,
        }
    }

    /// Makes it undone. What is not as the change left it stays: the change was announced and then not made.
    pub(crate) fn revert(&self, data: &Path, undo: &Path) -> io::Result<()> {
        match self {
            Self::Made { name, inode } => {
                let path = data.join(name);
                if inode_of(&path)? == Some(*inode) {
                    fs::remove_file(path)?;
                }
            }
            Self::Removed { name, inode } => {
                let (path, grave) = (data.join(name), grave(undo, *inode));
                if inode_of(&path)?.is_none() && inode_of(&grave)?.is_some() {
                    fs::hard_link(grave, path)?;
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

/// Where the last link to a removed file is, until the directory is synced.
fn grave(undo: &Path, inode: u64) -> PathBuf {
    undo.join(format!("{inode}.grave"))
}

/// The changes of names that are not synced.
#[derive(Debug)]
pub struct NamesLog {
    undo: PathBuf,
    log: File,
}

impl NamesLog {
    /// Opens the log, and goes on behind what it has from an earlier process.
    pub fn open(undo: &Path) -> io::Result<Self> {
        let path = undo.join(LOG);
        let log = fs::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let text = fs::read_to_string(&path)?;
        log.set_len(text.rfind('\n').map_or(0, |end| end as u64 + 1))?;
        Ok(Self { undo: undo.to_owned(), log })
    }

    /// Notes a change: before a name is removed or changed, after one is made.
    pub fn append(&mut self, change: &NameChange) -> io::Result<()> {
        self.log.write_all(change.line().as_bytes())
    }

    /// Keeps the file, whose name is about to be removed. Whether it could: not across file systems.
    pub fn bury(&self, path: &Path, inode: u64) -> bool {
        let grave = grave(&self.undo, inode);
        match fs::hard_link(path, &grave) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            result => result.is_ok(),
        }
    }

    /// The directory has been synced.
    pub fn synced(&mut self) -> io::Result<()> {
        let changes = self.changes()?;
        self.log.set_len(0)?;
        for change in changes {
            if let NameChange::Removed { inode, .. } = change {
                match fs::remove_file(grave(&self.undo, inode)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What has not been synced, oldest first.
    pub(crate) fn changes(&self) -> io::Result<Vec<NameChange>> {
        let text = fs::read_to_string(self.undo.join(LOG))?;
        Ok(text.lines().filter_map(NameChange::parse).collect())
    }
}
