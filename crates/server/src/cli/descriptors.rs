//! Fits the number of connections into the limit of file descriptors: every connection needs one, and the limit of a process is
//! often lower than `limits.connections`.

use rlimit::Resource;

use crate::config::{Config, LoweredConnections};
use crate::http::OPERATOR_CONNECTIONS;
use crate::places::refused_places;

/// How many descriptors the server needs besides connections: for the database with its write-ahead log, the log, listeners, the
/// bus and timers. PostgreSQL readers and the operators' listener need more.
const BASE_DESCRIPTORS: u64 = 64;

/// Raises the soft limit of open files to the hard limit, and lowers `limits.connections` to what fits into it.
pub(super) fn reduce_limit_to_descriptors(config: &mut Config) {
    let files = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => files,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            let Ok((soft, _)) = Resource::NOFILE.get() else { return };
            soft
        }
    };
    if let Some(fits) = connections_in(config, files) {
        let wanted = std::mem::replace(&mut config.limits.connections, fits);
        config.lowered_connections = Some(LoweredConnections { from: wanted, open_files: files });
        tracing::warn!(
            files,
            wanted,
            connections = fits,
            "limits.connections exceeds the limit of open files and was lowered; raise the hard limit (ulimit -Hn, or \
             LimitNOFILE= in a unit) or lower limits.connections"
        );
    }
}

/// The limit of open files that a server would have, and how many connections fit into it, if `limits.connections` does not.
pub(super) fn descriptor_shortage(config: &Config) -> Option<(u64, u32)> {
    let (_, hard) = Resource::NOFILE.get().ok()?;
    connections_in(config, hard).map(|fits| (hard, fits))
}

/// How many connections fit into `files` descriptors; `None` if `limits.connections` does.
fn connections_in(config: &Config, files: u64) -> Option<u32> {
    let readers = config.cluster.as_ref().map_or(0, |cluster| u64::from(cluster.settings.readers));
    let operators = config.operator_listen.map_or(0, |_| OPERATOR_CONNECTIONS as u64 + 1);
    let reserved = BASE_DESCRIPTORS + readers + operators;
    Some(connections_within(files, reserved)).filter(|fits| *fits < config.limits.connections)
}

/// How many connections fit into `files` descriptors, of which the server needs `reserved` itself and some more to refuse
/// connections. At least one.
fn connections_within(files: u64, reserved: u64) -> u32 {
    let free = u32::try_from(files.saturating_sub(reserved)).unwrap_or(u32::MAX);
    // The reserve for refused connections is computed for `free` connections, so it is enough for the lower number that remains.
    free.saturating_sub(u32::try_from(refused_places(free)).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_refusals_leave_descriptors_for_the_server() {
        for (files, connections) in
            [(64, 1), (100, 20), (256, 173), (1_024, 864), (65_536, 65_216), (u64::MAX, u32::MAX - 256)]
        {
            let fits = connections_within(files, BASE_DESCRIPTORS);
            assert_eq!(fits, connections, "{files}");
            let needed = u64::from(fits) + refused_places(fits) as u64 + BASE_DESCRIPTORS;
            assert!(needed <= files || fits == 1, "{needed} of {files}");
        }
    }
}
