//! Finds the programs of PostgreSQL, NATS and Pebble on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where Debian installs PostgreSQL, with a directory for each version. None of them is in PATH.
const DEBIAN_POSTGRES_DIRECTORY: &str = "/usr/lib/postgresql";

/// The programs of PostgreSQL that this crate runs. They must all be of one version.
const POSTGRES_PROGRAMS: [&str; 4] = ["postgres", "initdb", "pg_basebackup", "psql"];

/// Finds the directory with PostgreSQL's programs.
pub(crate) fn find_postgres_directory() -> anyhow::Result<PathBuf> {
    // Links are resolved, because PATH may have a link to only one of the programs.
    let in_path = candidates_in_path("postgres").filter_map(|program| program.canonicalize().ok());
    let directories = in_path
        .filter_map(|program| program.parent().map(Path::to_path_buf))
        .chain(debian_postgres_directories());
    let mut complete = directories
        .filter(|directory| POSTGRES_PROGRAMS.iter().all(|program| directory.join(program).is_file()));
    complete.next().context("postgres is not installed (Debian: apt-get install postgresql)")
}

pub(crate) fn find_nats() -> anyhow::Result<PathBuf> {
    // Debian keeps the programs of services in a directory that is not in every user's PATH.
    let elsewhere =
        ["/usr/sbin", "/usr/local/sbin"].map(|directory| Path::new(directory).join("nats-server"));
    let mut programs =
        candidates_in_path("nats-server").chain(elsewhere.into_iter().filter(|program| program.is_file()));
    programs.next().context("nats-server is not installed (Debian: apt-get install nats-server)")
}

/// Finds a program of Pebble: in PATH, or in the cache of `scripts/tools.sh`.
pub(crate) fn find_pebble(name: &str) -> anyhow::Result<PathBuf> {
    let cache = env::var_os("TOOLS_CACHE").map(PathBuf::from).or_else(|| {
        let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        Some(caches?.join("switchboard-tools"))
    });
    let cached = cache.map(|cache| cache.join("bin").join(name)).filter(|program| program.is_file());
    let mut programs = candidates_in_path(name).chain(cached);
    programs.next().with_context(|| format!("{name} is not installed: scripts/tools.sh {name}"))
}

fn candidates_in_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let program = program.to_owned();
    directories.into_iter().map(move |directory| directory.join(&program)).filter(|program| program.is_file())
}

/// Debian's directories of PostgreSQL programs, the newest version first.
fn debian_postgres_directories() -> impl Iterator<Item = PathBuf> {
    let versions = fs::read_dir(DEBIAN_POSTGRES_DIRECTORY).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<(u32, PathBuf)> =
        versions.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path.join("bin"))
}
