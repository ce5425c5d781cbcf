//! Simulates a power cut: of the unsynced data, the disk has a part or nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fastrand::Rng;

use crate::names::{NameChange, NamesLog};
use crate::undo::{FileChange, FileId, UndoLog, read_range, write_into};

/// The unit that a disk writes as a whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// What a power cut has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PowerCutResult {
    /// How many changes of files were not synced.
    pub unsynced_changes: u64,
    /// How many of the unsynced changes are lost as a whole.
    pub lost_changes: u64,
    /// How many of the unsynced changes are on the disk in part.
    pub torn_changes: u64,
    /// How many files had pages that a failed sync had dropped.
    pub files_with_dropped_pages: u64,
    /// How many files that were created have lost their name.
    pub vanished_files: u64,
    /// How many files that were removed have their name again.
    pub returned_files: u64,
}

/// What happens to one change in a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteFate {
    Kept,
    Lost,
    Torn,
}

/// Cuts the power: changes the files below `data` to a state that the disk could have, given the unsynced data in `undo`. At
/// random each write survives, is lost, or is torn (some of its 512-byte sectors survive). Of the changes of names the first
/// few survive. Shared memory (`-shm`) is gone. Afterwards everything counts as synced.
///
/// No process may run on `data`: kill it and wait for its exit first.
pub fn cut_power(data: &Path, undo: &Path, rng: &mut Rng) -> io::Result<PowerCutResult> {
    let mut cut = PowerCutResult::default();
    revert_unsynced_names(data, undo, rng, &mut cut)?;
    cut_directory(data, undo, rng, &mut cut)?;
    for entry in fs::read_dir(undo)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(cut)
}

fn revert_unsynced_names(
    data: &Path,
    undo: &Path,
    rng: &mut Rng,
    cut: &mut PowerCutResult,
) -> io::Result<()> {
    let changes = NamesLog::open(undo)?.changes()?;
    let kept = rng.usize(..=changes.len());
    for change in changes[kept..].iter().rev() {
        change.revert(data, undo)?;
        match change {
            NameChange::Created { .. } => cut.vanished_files += 1,
            NameChange::Removed { .. } => cut.returned_files += 1,
            NameChange::Renamed { .. } => {}
        }
    }
    Ok(())
}

fn cut_directory(directory: &Path, undo: &Path, rng: &mut Rng, cut: &mut PowerCutResult) -> io::Result<()> {
    // The entries are sorted by name, so that the same seed always gives the same result.
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
            if let Some(log) = UndoLog::find(undo, FileId::from_metadata(&file.metadata()?))? {
                cut_file(&file, &log, rng, cut)?;
            }
        }
    }
    Ok(())
}

fn cut_file(file: &File, log: &UndoLog, rng: &mut Rng, cut: &mut PowerCutResult) -> io::Result<()> {
    let records = log.records()?;
    let mut image = read_range(file, 0, file.metadata()?.len())?;

    // Reverts the file to its synced content, and keeps what each write wrote.
    let mut written = Vec::with_capacity(records.len());
    for record in records.iter().rev() {
        written.push(match record.change {
            FileChange::Write { offset, length } => {
                let from = (offset as usize).min(image.len());
                image[from..(from + length as usize).min(image.len())].to_vec()
            }
            FileChange::Truncate { .. } => Vec::new(),
        });
        record.revert(&mut image);
    }
    let dropped = log.overlay_lost_pages(&mut image);
    cut.files_with_dropped_pages += u64::from(dropped);
    if records.is_empty() && !dropped {
        return Ok(());
    }

    // Applies the writes again that survive the power cut.
    let survivals = random_write_fates(records.len(), rng);
    let mut truncation_lost = false;
    for ((record, new), survival) in records.iter().zip(written.iter().rev()).zip(survivals) {
        let survival = match record.change {
            // Blocks that the file gets after a truncation belong to the file only if the truncation survives.
            _ if truncation_lost => WriteFate::Lost,
            FileChange::Truncate { .. } if survival == WriteFate::Torn => WriteFate::Lost,
            _ => survival,
        };
        cut.unsynced_changes += 1;
        cut.lost_changes += u64::from(survival == WriteFate::Lost);
        cut.torn_changes += u64::from(survival == WriteFate::Torn);
        match (record.change, survival) {
            (FileChange::Truncate { .. }, WriteFate::Lost) => truncation_lost = true,
            (FileChange::Truncate { length }, _) => image.resize(length as usize, 0),
            (FileChange::Write { offset, .. }, WriteFate::Kept) => write_into(&mut image, offset, new),
            (FileChange::Write { offset, .. }, WriteFate::Torn) => {
                write_random_sectors(&mut image, offset, new, rng);
            }
            (FileChange::Write { .. }, WriteFate::Lost) => {}
        }
    }
    file.set_len(image.len() as u64)?;
    file.write_all_at(&image, 0)
}

/// What happens to each unsynced change of one file. Disks differ, so one of three models is chosen at random: nothing was written
/// yet; the first changes were written; or any of them were, in any order.
fn random_write_fates(count: usize, rng: &mut Rng) -> Vec<WriteFate> {
    match rng.u8(..4) {
        0 => vec![WriteFate::Lost; count],
        1 => {
            let kept = rng.usize(..=count);
            let mut survivals = vec![WriteFate::Kept; kept];
            survivals.resize(count, WriteFate::Lost);
            if let Some(survival) = survivals.get_mut(kept) {
                *survival = WriteFate::Torn;
            }
            survivals
        }
        _ => {
            (0..count).map(|_| [WriteFate::Kept, WriteFate::Lost, WriteFate::Torn][rng.usize(..3)]).collect()
        }
    }
}

/// Applies a random selection of the sectors of a write.
fn write_random_sectors(image: &mut Vec<u8>, offset: u64, new: &[u8], rng: &mut Rng) {
    let (mut at, mut rest) = (offset, new);
    while !rest.is_empty() {
        let (sector, after) = rest.split_at((SECTOR_BYTES - at as usize % SECTOR_BYTES).min(rest.len()));
        if rng.bool() {
            write_into(image, at, sector);
        }
        (at, rest) = (at + sector.len() as u64, after);
    }
}
