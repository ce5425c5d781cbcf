//! The modules that `log.level` may name.

use super::ConfigError;

/// The module of a `module=level` part. Modules of libraries are not known here, but one that is nearly ours is misspelt.
pub(super) fn check(part: &str) -> Result<(), ConfigError> {
    const OURS: &str = "switchboard";
    let Some((target, _)) = part.rsplit_once('=') else { return Ok(()) };
    let mut path = target.split('[').next().unwrap_or_default().split("::");
    let (name, inner) = (path.next().unwrap_or_default(), path.next());
    let meant = if name != OURS {
        (strsim::damerau_levenshtein(name, OURS) <= 2).then(|| OURS.to_owned())
    } else {
        inner
            .filter(|inner| !MODULES.contains(inner))
            .map(|_| format!("one of {OURS}::{{{}}}", MODULES.join(", ")))
    };
    match meant {
        Some(meant) => {
            Err(ConfigError(format!("`log.level`: there is no module {target}; did you mean {meant}?")))
        }
        None => Ok(()),
    }
}

/// Our modules.
pub(super) const MODULES: [&str; 29] = [
    "auth",
    "bus",
    "cli",
    "clock",
    "config",
    "dev",
    "encode",
    "frame",
    "health",
    "http",
    "intake",
    "limiter",
    "metrics",
    "migrations",
    "origin",
    "outbox",
    "record",
    "refusal",
    "router",
    "services",
    "session",
    "simulated",
    "store",
    "tasks",
    "timers",
    "access",
    "fuzzing",
    "main",
    "log",
];
