//! The undo log of a file. Before each write, the bytes that the write overwrites are appended to the log; a sync empties the log.
//! An entry is complete before the write starts, because the program may be killed at any moment.
//!
//! A log belongs to an inode, not to a path, and outlives the process: after a kill, the disk still lacks everything that was not
//! synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The unit in which the system's page cache is written to the disk, in bytes.
const PAGE_BYTES: usize = 4096;

const HEADER_BYTES: usize = 16;
const RECORD_BYTES: usize = 40;
const KIND_WRITE: u64 = 1;
const KIND_TRUNCATE: u64 = 2;

/// Identifies a file. A file system reuses inode numbers; the time of birth tells the files apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The number of the file's inode.
    pub inode: u64,
    /// The time of birth, in nanoseconds since 1970; 0 if the file system does not record it.
    pub birth_time_ns: u64,
}

impl FileId {
    /// The id of the file with this metadata.
    pub fn from_metadata(metadata: &fs::Metadata) -> Self {
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self { inode: metadata.ino(), birth_time_ns: born.map_or(0, |time| time.as_nanos() as u64) }
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..].copy_from_slice(&self.birth_time_ns.to_le_bytes());
        bytes
    }
}

/// One change of a file that is not synced, with the content that it replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UndoRecord {
    pub(crate) change: FileChange,
    /// The file's length before the change.
    old_length: u64,
    /// The bytes that the change overwrote, as far as the file had them.
    old: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileChange {
    Write { offset: u64, length: u64 },
    Truncate { length: u64 },
}

impl UndoRecord {
    /// The position in the file at which `old` was.
    fn offset(&self) -> u64 {
        match self.change {
            FileChange::Write { offset, .. } => offset,
            FileChange::Truncate { length } => length,
        }
    }

    /// Turns the content after this change into the content before it.
    pub(crate) fn revert(&self, image: &mut Vec<u8>) {
        write_into(image, self.offset(), &self.old);
        image.resize(self.old_length as usize, 0);
    }

    /// Encodes the record for a log.
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, at, length) = match self.change {
            FileChange::Write { offset, length } => (KIND_WRITE, offset, length),
            FileChange::Truncate { length } => (KIND_TRUNCATE, length, 0),
        };
        let mut bytes = Vec::with_capacity(RECORD_BYTES + self.old.len());
        for number in [kind, at, length, self.old_length, self.old.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.old);
        bytes
    }

    /// Parses the record with which `bytes` begins, and also returns its length. `None` at the end of the log, and if the record is
    /// incomplete because the program was killed before the change started.
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let number =
            |index: usize| Some(u64::from_le_bytes(bytes.get(index * 8..index * 8 + 8)?.try_into().ok()?));
        let change = match number(0)? {
            KIND_WRITE => FileChange::Write { offset: number(1)?, length: number(2)? },
            KIND_TRUNCATE => FileChange::Truncate { length: number(1)? },
            _ => return None,
        };
        let end = RECORD_BYTES.checked_add(number(4)?.try_into().ok()?)?;
        Some((Self { change, old_length: number(3)?, old: bytes.get(RECORD_BYTES..end)?.to_vec() }, end))
    }
}

/// Writes bytes into the content of a file, which becomes longer if necessary.
pub(crate) fn write_into(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if bytes.is_empty() {
        return;
    }
    if image.len() < to {
        image.resize(to, 0);
    }
    image[from..to].copy_from_slice(bytes);
}

/// The undo log of one file.
#[derive(Debug)]
pub struct UndoLog {
    log: File,
    id: FileId,
    lost: LostPages,
}

impl UndoLog {
    /// Opens a file's log. Records of an earlier process remain in it, unless the file is `fresh`: then it was created just now,
    /// and an existing log belongs to another file.
    pub fn open(undo: &Path, id: FileId, fresh: bool) -> io::Result<Self> {
        let path = undo_log_path(undo, id.inode);
        let valid =
            if fresh { None } else { parse_undo_log(&read_if_exists(&path)?, id).map(|(_, end)| end) };
        let mut log = fs::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        log.set_len(valid.unwrap_or(0) as u64)?;
        let mut lost = LostPages::read(undo, id.inode)?;
        if valid.is_none() {
            log.write_all(&id.to_bytes())?;
            lost.replace_atomically(BTreeMap::new())?;
        }
        Ok(Self { log, id, lost })
    }

    /// Opens the log of this file, if it has one.
    pub(crate) fn find(undo: &Path, id: FileId) -> io::Result<Option<Self>> {
        let known = parse_undo_log(&read_if_exists(&undo_log_path(undo, id.inode))?, id).is_some();
        known.then(|| Self::open(undo, id, false)).transpose()
    }

    /// Records that `length` bytes are about to be written at `offset`.
    pub fn before_write(&mut self, data: &File, offset: u64, length: u64) -> io::Result<()> {
        let old_length = data.metadata()?.len();
        let old = read_range(data, offset, length.min(old_length.saturating_sub(offset)))?;
        self.append(&UndoRecord { change: FileChange::Write { offset, length }, old_length, old })
    }

    /// Records that the file is about to be truncated to `length` bytes.
    pub fn before_truncate(&mut self, data: &File, length: u64) -> io::Result<()> {
        let old_length = data.metadata()?.len();
        let old = read_range(data, length, old_length.saturating_sub(length))?;
        self.append(&UndoRecord { change: FileChange::Truncate { length }, old_length, old })
    }

    fn append(&mut self, record: &UndoRecord) -> io::Result<()> {
        self.log.write_all(&record.to_bytes())
    }

    /// Clears the log after the file was synced.
    pub fn forget_synced(&mut self) -> io::Result<()> {
        if !self.lost.pages.is_empty() {
            let written = written_pages(&self.records()?);
            let mut pages = std::mem::take(&mut self.lost.pages);
            pages.retain(|page, _| !written.contains(page));
            self.lost.replace_atomically(pages)?;
        }
        self.log.set_len(HEADER_BYTES as u64)
    }

    /// Called after a failed sync: reverts the writes that the sync should have made durable.
    pub fn revert(&mut self, data: &File) -> io::Result<()> {
        for record in self.records()?.iter().rev() {
            data.write_all_at(&record.old, record.offset())?;
            data.set_len(record.old_length)?;
        }
        self.log.set_len(HEADER_BYTES as u64)
    }

    /// Called after a failed sync: keeps the data that the sync should have written in memory only. No later sync writes these
    /// pages to the disk, unless the program writes to the same page again.
    pub fn discard_unsynced(&mut self, data: &File) -> io::Result<()> {
        let records = self.records()?;
        let mut image = read_range(data, 0, data.metadata()?.len())?;
        records.iter().rev().for_each(|record| record.revert(&mut image));
        let mut pages = std::mem::take(&mut self.lost.pages);
        for page in written_pages(&records) {
            let from = (page as usize * PAGE_BYTES).min(image.len());
            let mut on_disk = image[from..(from + PAGE_BYTES).min(image.len())].to_vec();
            on_disk.resize(PAGE_BYTES, 0);
            // If an earlier failed sync lost this page already, the disk still has that older content.
            pages.entry(page).or_insert(on_disk);
        }
        self.lost.replace_atomically(pages)?;
        self.log.set_len(HEADER_BYTES as u64)
    }

    /// The changes that are not synced, oldest first.
    pub(crate) fn records(&self) -> io::Result<Vec<UndoRecord>> {
        let bytes = read_range(&self.log, 0, self.log.metadata()?.len())?;
        Ok(parse_undo_log(&bytes, self.id).map_or_else(Vec::new, |(records, _)| records))
    }

    /// Replaces the lost pages in the content of the file by the pages that are on the disk. Returns whether there were lost pages.
    pub(crate) fn overlay_lost_pages(&self, image: &mut [u8]) -> bool {
        for (page, on_disk) in &self.lost.pages {
            let from = (*page as usize * PAGE_BYTES).min(image.len());
            let to = (from + PAGE_BYTES).min(image.len());
            image[from..to].copy_from_slice(&on_disk[..to - from]);
        }
        !self.lost.pages.is_empty()
    }
}

/// The pages that were written to. A write to a part of a page counts as the whole page.
fn written_pages(records: &[UndoRecord]) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    for record in records {
        if let FileChange::Write { offset, length } = record.change {
            pages.extend(offset / PAGE_BYTES as u64..(offset + length).div_ceil(PAGE_BYTES as u64));
        }
    }
    pages
}

/// The path of the undo log of an inode.
fn undo_log_path(undo: &Path, inode: u64) -> PathBuf {
    undo.join(format!("{inode}.undo"))
}

fn read_if_exists(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// Parses the records of a log. Also returns the position at which they end. `None` if the log belongs to another file.
fn parse_undo_log(bytes: &[u8], id: FileId) -> Option<(Vec<UndoRecord>, usize)> {
    if !bytes.starts_with(&id.to_bytes()) {
        return None;
    }
    let (mut records, mut end) = (Vec::new(), HEADER_BYTES);
    while let Some((record, length)) = UndoRecord::parse(&bytes[end..]) {
        records.push(record);
        end += length;
    }
    Some((records, end))
}

pub(crate) fn read_range(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The pages that a failed sync has dropped, with the content that the disk has in their place.
#[derive(Debug)]
struct LostPages {
    path: PathBuf,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl LostPages {
    fn read(undo: &Path, inode: u64) -> io::Result<Self> {
        let path = undo.join(format!("{inode}.lost"));
        let bytes = read_if_exists(&path)?;
        let pages = bytes.chunks_exact(8 + PAGE_BYTES).filter_map(|entry| {
            let (page, on_disk) = entry.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*page), on_disk.to_vec()))
        });
        Ok(Self { pages: pages.collect(), path })
    }

    /// Replaces the file with the lost pages atomically: after a kill it contains the old pages or the new ones.
    fn replace_atomically(&mut self, pages: BTreeMap<u64, Vec<u8>>) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut bytes = Vec::with_capacity(pages.len() * (8 + PAGE_BYTES));
        for (page, on_disk) in &pages {
            bytes.extend_from_slice(&page.to_le_bytes());
            bytes.extend_from_slice(on_disk);
        }
        self.pages = pages;
        match bytes.is_empty() {
            true => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            false => fs::write(&next, bytes).and_then(|()| fs::rename(&next, &self.path)),
        }
    }
}
