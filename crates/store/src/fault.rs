//! Injects faults into the server's own tasks, for tests. Builds without debug assertions have this only with the feature
//! `fault-injection`, which no release has.
//!
//! `FAULTS_TASK=router=panic@/tmp/now` makes the task "router" panic once the file `/tmp/now` exists. With `return` in
//! place of `panic` the task ends without an error.
//!
//! `FAULTS_NAMES` is a file in whose lines a name is followed by the addresses to which it resolves.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// How often a task checks whether the file exists.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The fault that the environment variable asks for, if any.
static FAULT: LazyLock<Option<TaskFault>> = LazyLock::new(|| {
    let value = std::env::var("FAULTS_TASK").ok()?;
    let (task, rest) = value.split_once('=')?;
    let (action, file) = rest.split_once('@')?;
    Some(TaskFault { task: task.to_owned(), should_panic: action == "panic", trigger_file: file.into() })
});

struct TaskFault {
    task: String,
    should_panic: bool,
    trigger_file: PathBuf,
}

impl TaskFault {
    fn for_task(task: &str) -> Option<&'static Self> {
        FAULT.as_ref().filter(|fault| fault.task == task)
    }

    fn panic_or_return(&self) {
        assert!(!self.should_panic, "a fault that was asked for");
    }
}

/// Panics or returns once the fault for this task is due; never returns if there is none.
pub async fn wait_for_fault(task: &str) {
    let Some(fault) = TaskFault::for_task(task) else { return std::future::pending().await };
    while !fault.trigger_file.exists() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    fault.panic_or_return();
}

/// Panics if the fault for this thread is due.
pub fn panic_if_due(thread: &str) {
    if let Some(fault) = TaskFault::for_task(thread)
        && fault.trigger_file.exists()
    {
        fault.panic_or_return();
    }
}

/// The addresses that a test has set for a name.
pub fn addresses_of(name: &str) -> Option<Vec<SocketAddr>> {
    let text = std::fs::read_to_string(std::env::var_os("FAULTS_NAMES")?).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.split(' ').filter_map(|address| Some((address.parse::<IpAddr>().ok()?, 0).into())).collect())
}
