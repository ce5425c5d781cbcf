//! Whose processes and files they are. PostgreSQL refuses to run as root.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The user and group `nobody` of Debian, for a machine whose users are not in `/etc/passwd`.
const NOBODY: Account = Account { uid: 65534, gid: 65534 };

/// A user of the system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A directory of one server.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Whether nobody but us will delete it.
    pub(crate) ours: bool,
}

impl Account {
    /// Whom PostgreSQL runs as, if it cannot be us: `postgres`, or `nobody` where there is no such user.
    pub(crate) fn for_postgres() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(named(&users, "postgres").or_else(|| named(&users, "nobody")).unwrap_or(NOBODY))
    }

    fn can_pass(self, directory: &Metadata) -> bool {
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

fn named(users: &str, name: &str) -> Option<Account> {
    let fields =
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    Some(Account { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

impl Place {
    /// A new directory below `scratch` that belongs to the account. Where the account cannot get there, it is in the
    /// directory for temporary files instead.
    pub(crate) fn new(scratch: &Path, prefix: &str, account: Option<Account>) -> anyhow::Result<Self> {
        fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let scratch = scratch.canonicalize().with_context(|| format!("there is no {}", scratch.display()))?;
        let Some(account) = account else {
            return Ok(Self { path: make(&scratch, prefix)?, ours: false });
        };
        let reachable = open_the_way(&scratch, account)?;
        let path = if reachable { make(&scratch, prefix)? } else { make(&std::env::temp_dir(), prefix)? };
        chown(&path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("cannot give {} away", path.display()))?;
        Ok(Self { path, ours: !reachable })
    }
}

fn make(parent: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
    Ok(directory.with_context(|| format!("cannot make a directory in {}", parent.display()))?.keep())
}

/// Lets an account through the directories above its own, where they are made for the occasion: `scratch` itself, what
/// is in the directory for temporary files, and what the crate `tempfile` made elsewhere, which nobody else may enter.
/// Other directories, a home say, are left as they are. Says whether the account can get there.
fn open_the_way(scratch: &Path, account: Account) -> anyhow::Result<bool> {
    let temporary = std::env::temp_dir();
    for directory in scratch.ancestors() {
        let metadata =
            fs::metadata(directory).with_context(|| format!("cannot look at {}", directory.display()))?;
        if account.can_pass(&metadata) {
            continue;
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let occasional = directory == scratch || name.starts_with(".tmp");
        if !occasional && (directory == temporary || !directory.starts_with(&temporary)) {
            return Ok(false);
        }
        fs::set_permissions(directory, Permissions::from_mode(metadata.mode() & 0o7777 | 0o001))
            .with_context(|| format!("cannot let another user through {}", directory.display()))?;
    }
    Ok(true)
}
