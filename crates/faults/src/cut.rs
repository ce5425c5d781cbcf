//! A power cut: what was not synced is on the disk in part, or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastrand::Rng;

use crate::names::{NameChange, NamesLog};
use crate::undo::{Change, FileId, UndoLog, read_range, write_into};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a power cut did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Changes of files that were not synced.
    pub unsynced: u64,
    /// Of these, those that are lost as a whole.
    pub lost: u64,
    /// Of these, those that are on the disk in part.
    pub torn: u64,
    /// Files in which a sync that failed had dropped pages.
    pub dropped: u64,
    /// Names that were made and are gone.
    pub vanished: u64,
    /// Names that were removed and are back.
    pub returned: u64,
}

/// What happens to one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

/// Cuts the power: makes of the files below `data` what could be on the disk, given what `undo` says was not
/// synced. For each write chance decides whether it survives, is lost, or is torn (of its sectors of 512
/// bytes some survive); so for the changes of names, of which a beginning survives. Shared memory (`-shm`) is
/// gone. Afterwards everything counts as synced.
///
/// No process may run on `data` any more: kill it and wait for its end first.
pub fn cut_power(data: &Path, undo: &Path, rng: &mut Rng) -> io::Result<Cut> {
    let mut cut = Cut::default();
    cut_names(data, undo, rng, &mut cut)?;
    cut_directory(data, undo, rng, &mut cut)?;
    for entry in fs::read_dir(undo)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(cut)
}

fn cut_names(data: &Path, undo: &Path, rng: &mut Rng, cut: &mut Cut) -> io::Result<()> {
    let changes = NamesLog::open(undo)?.changes()?;
    let kept = rng.usize(..=changes.len());
    for change in changes[kept..].iter().rev() {
        change.revert(data, undo)?;
        match change {
            NameChange::Made { .. } => cut.vanished += 1,
            NameChange::Removed { .. } => cut.returned += 1,
            NameChange::Renamed { .. } => {}
        }
    }
    Ok(())
}

fn cut_directory(directory: &Path, undo: &Path, rng: &mut Rng, cut: &mut Cut) -> io::Result<()> {
    // In the order of names, so that a seed means the same each time.
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            cut_directory(&path, undo, rng, cut)?;
        } else if crate::is_shared_memory(&path) {
            fs::remove_file(path)?;
        } else if kind.is_file() {
            let file = File::options().read(true).write(true).open(path)?;
            if let Some(log) = UndoLog::find(undo, FileId::of(&file.metadata()?))? {
                cut_file(&file, &log, rng, cut)?;
            }
        }
    }
    Ok(())
}

fn cut_file(file: &File, log: &UndoLog, rng: &mut Rng, cut: &mut Cut) -> io::Result<()> {
    let records = log.records()?;
    let mut image = read_range(file, 0, file.metadata()?.len())?;

    // Back to what was synced, keeping what each write wrote.
    let mut written = Vec::with_capacity(records.len());
    for record in records.iter().rev() {
        written.push(match record.change {
            Change::Write { offset, length } => {
                let from = (offset as usize).min(image.len());
                image[from..(from + length as usize).min(image.len())].to_vec()
            }
            Change::Truncate { .. } => Vec::new(),
        });
        record.revert(&mut image);
    }
    let dropped = log.show_lost(&mut image);
    cut.dropped += u64::from(dropped);
    if records.is_empty() && !dropped {
        return Ok(());
    }

    // And forward again, with some of it.
    let fates = fates(records.len(), rng);
    let mut truncation_lost = false;
    for ((record, new), fate) in records.iter().zip(written.iter().rev()).zip(fates) {
        let fate = match record.change {
            // Blocks that are given to a file after it was cut are its own only if the cut is.
            _ if truncation_lost => Fate::Lost,
            Change::Truncate { .. } if fate == Fate::Torn => Fate::Lost,
            _ => fate,
        };
        cut.unsynced += 1;
        cut.lost += u64::from(fate == Fate::Lost);
        cut.torn += u64::from(fate == Fate::Torn);
        match (record.change, fate) {
            (Change::Truncate { .. }, Fate::Lost) => truncation_lost = true,
            (Change::Truncate { length }, _) => image.resize(length as usize, 0),
            (Change::Write { offset, .. }, Fate::Kept) => write_into(&mut image, offset, new),
            (Change::Write { offset, .. }, Fate::Torn) => tear(&mut image, offset, new, rng),
            (Change::Write { .. }, Fate::Lost) => {}
        }
    }
    file.set_len(image.len() as u64)?;
    file.write_all_at(&image, 0)
}

/// What happens to each of so many changes of one file. Disks differ, so do the cuts: nothing was written
/// yet; a beginning was; or anything, in any order.
fn fates(count: usize, rng: &mut Rng) -> Vec<Fate> {
    match rng.u8(..4) {
        0 => vec![Fate::Lost; count],
        1 => {
            let kept = rng.usize(..=count);
            let mut fates = vec![Fate::Kept; kept];
            fates.resize(count, Fate::Lost);
            if let Some(fate) = fates.get_mut(kept) {
                *fate = Fate::Torn;
            }
            fates
        }
        _ => (0..count).map(|_| [Fate::Kept, Fate::Lost, Fate::Torn][rng.usize(..3)]).collect(),
    }
}

/// Writes some sectors of a write.
fn tear(image: &mut Vec<u8>, offset: u64, new: &[u8], rng: &mut Rng) {
    let (mut at, mut rest) = (offset, new);
    while !rest.is_empty() {
        let (sector, after) = rest.split_at((SECTOR - at as usize % SECTOR).min(rest.len()));
        if rng.bool() {
            write_into(image, at, sector);
        }
        (at, rest) = (at + sector.len() as u64, after);
    }
}
