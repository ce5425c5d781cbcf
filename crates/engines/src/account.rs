//! The account that runs PostgreSQL and owns its files. It is needed if this process is root, as which PostgreSQL does not run.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The user and group `nobody` of Debian, for a machine whose users are not in `/etc/passwd`.
const NOBODY: Account = Account { uid: 65534, gid: 65534 };

/// A user account of the operating system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The directory in which a server keeps its files.
pub(crate) struct ServerDirectory {
    pub(crate) path: PathBuf,
    /// Whether the directory is outside of the caller's directory, so that this crate has to delete it.
    pub(crate) must_delete: bool,
}

impl Account {
    /// The account for PostgreSQL if this process is root: `postgres`, or `nobody` if there is no such user.
    pub(crate) fn for_postgres() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(find_account(&users, "postgres").or_else(|| find_account(&users, "nobody")).unwrap_or(NOBODY))
    }

    fn can_traverse(self, directory: &Metadata) -> bool {
        let bit = if directory.uid() == self.uid {
            0o100
        } else if directory.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        directory.mode() & bit != 0
    }
}

fn find_account(users: &str, name: &str) -> Option<Account> {
    let fields =
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    Some(Account { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

impl ServerDirectory {
    /// Creates a directory that belongs to the account. It is created below `scratch`, or in the directory for temporary files if
    /// the account cannot reach `scratch`.
    pub(crate) fn new(scratch: &Path, prefix: &str, account: Option<Account>) -> anyhow::Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let scratch =
            scratch.canonicalize().with_context(|| format!("{} does not exist", scratch.display()))?;
        let Some(account) = account else {
            return Ok(Self { path: make_directory(&scratch, prefix)?, must_delete: false });
        };
        let reachable = make_passable(&scratch, account)?;
        let path = if reachable {
            make_directory(&scratch, prefix)?
        } else {
            make_directory(&std::env::temp_dir(), prefix)?
        };
        chown(&path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot change the owner of {}", path.display()))?;
        Ok(Self { path, must_delete: !reachable })
    }
}

fn make_directory(parent: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
    Ok(directory.with_context(|| format!("cannot make a directory in {}", parent.display()))?.keep())
}

/// Lets the account pass through the parent directories where that is safe: `scratch` itself, directories in the directory for
/// temporary files, and directories of the crate `tempfile`, which only their owner may enter. Other directories, for example a
/// home, are not changed. Returns whether the account can reach `scratch`.
fn make_passable(scratch: &Path, account: Account) -> anyhow::Result<bool> {
    let temporary = std::env::temp_dir();
    for directory in scratch.ancestors() {
        let metadata = fs::metadata(directory)
            .with_context(|| format!("cannot read the metadata of {}", directory.display()))?;
        if account.can_traverse(&metadata) {
            continue;
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let occasional = directory == scratch || name.starts_with(".tmp");
        if !occasional && (directory == temporary || !directory.starts_with(&temporary)) {
            return Ok(false);
        }
        fs::set_permissions(directory, Permissions::from_mode(metadata.mode() & 0o7777 | 0o001))
            .with_context(|| format!("cannot make {} passable for another user", directory.display()))?;
    }
    Ok(true)
}
