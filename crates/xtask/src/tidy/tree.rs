//! The files of the repository, as git lists them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// The text of each file by its path from the repository's root: all tracked files, and the untracked files that git does not
/// ignore. A file that is not UTF-8 has an empty text.
pub(super) struct Tree(BTreeMap<String, String>);

impl Tree {
    pub(super) fn read(root: &Path) -> io::Result<Self> {
        // `safe.directory` is set because in a container the checkout often belongs to another user; git then refuses to work by
        // default, although it is safe to list names.
        let list = Command::new("git")
            .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()?;
        if !list.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&list.stderr).trim().to_owned()));
        }
        let mut files = BTreeMap::new();
        for path in String::from_utf8_lossy(&list.stdout).split_terminator('\0') {
            match fs::read(root.join(path)) {
                Ok(bytes) => {
                    files.insert(path.to_owned(), String::from_utf8(bytes).unwrap_or_default());
                }
                // The file was deleted but is still in git's index.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(files))
    }

    #[cfg(test)]
    pub(super) fn from_texts(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    /// Every path with its text, sorted by path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The files with one of these extensions.
    pub(super) fn with_extension(&self, extensions: &[&str]) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(path, _)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
        })
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Whether a file or a directory has this path.
    pub(super) fn has(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        self.0.contains_key(path)
            || self.0.range(inside.clone()..).next().is_some_and(|(next, _)| next.starts_with(&inside))
    }
}
