//! The modules that `log.level` may name.

use super::ConfigError;

/// The name of the server's crate, with which the paths of its modules begin.
const CRATE_NAME: &str = "switchboard";

/// The crate root, which declares the modules; parsed because a separate list could become outdated.
const CRATE_ROOT_SOURCE: &str = include_str!("../lib.rs");

/// Checks the module of a `module=level` part. Modules of libraries are unknown here, but a name similar to the server's is a
/// typo.
pub(super) fn check(part: &str) -> Result<(), ConfigError> {
    let Some((target, _)) = part.rsplit_once('=') else { return Ok(()) };
    let mut path = target.split('[').next().unwrap_or_default().split("::");
    let (name, inner) = (path.next().unwrap_or_default(), path.next());
    let meant = match inner {
        _ if name != CRATE_NAME && strsim::damerau_levenshtein(name, CRATE_NAME) <= 2 => {
            CRATE_NAME.to_owned()
        }
        Some(inner) if name == CRATE_NAME && !module_names().any(|module| module == inner) => {
            format!("one of {CRATE_NAME}::{{{}}}", module_names().collect::<Vec<_>>().join(", "))
        }
        _ => return Ok(()),
    };
    Err(ConfigError::new(format!("`log.level`: there is no module {target}; did you mean {meant}?")))
}

/// The modules of the crate.
fn module_names() -> impl Iterator<Item = &'static str> {
    let declared = CRATE_ROOT_SOURCE.lines().filter_map(|line| {
        let declared = line.strip_suffix(';')?;
        let declared =
            declared.strip_prefix("pub(crate) ").or(declared.strip_prefix("pub ")).unwrap_or(declared);
        declared.strip_prefix("mod ")
    });
    // The store was a module of the server once, so the crate can still be named as one.
    declared.chain(["store"])
}
