//! The modules that `log.level` may name.

use super::ConfigError;

/// Our crate, as its modules begin.
const OURS: &str = "switchboard";

/// Where our modules are declared, so that a list of them cannot be out of date.
const ROOT: &str = include_str!("../lib.rs");

/// The module of a `module=level` part. Modules of libraries are not known here, but one that is nearly ours is misspelt.
pub(super) fn check(part: &str) -> Result<(), ConfigError> {
    let Some((target, _)) = part.rsplit_once('=') else { return Ok(()) };
    let mut path = target.split('[').next().unwrap_or_default().split("::");
    let (name, inner) = (path.next().unwrap_or_default(), path.next());
    let meant = match inner {
        _ if name != OURS && strsim::damerau_levenshtein(name, OURS) <= 2 => OURS.to_owned(),
        Some(inner) if name == OURS && !modules().any(|module| module == inner) => {
            format!("one of {OURS}::{{{}}}", modules().collect::<Vec<_>>().join(", "))
        }
        _ => return Ok(()),
    };
    Err(ConfigError::new(format!("`log.level`: there is no module {target}; did you mean {meant}?")))
}

/// The modules of the crate.
fn modules() -> impl Iterator<Item = &'static str> {
    ROOT.lines().filter_map(|line| {
        let declared = line.strip_suffix(';')?;
        let declared =
            declared.strip_prefix("pub(crate) ").or(declared.strip_prefix("pub ")).unwrap_or(declared);
        declared.strip_prefix("mod ")
    })
}
