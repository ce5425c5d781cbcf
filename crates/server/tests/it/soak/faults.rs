//! Faults that must not spread, in the program as it is released: but for the tasks that fail on demand, which need the feature
//! `fault-injection`.

#[cfg(any(debug_assertions, feature = "fault-injection"))]
mod injected {
    use std::time::Duration;

    use crate::failing::strikes;

    /// From the fault to the end of the process.
    const BOUND: Duration = Duration::from_secs(2);

    #[tokio::test]
    #[ignore = "soak"]
    async fn a_server_of_which_a_task_fails_is_gone_within_two_seconds() {
        for fault in ["router=panic", "router=return", "writer=panic", "acceptor=return", "sweep=panic"] {
            let outcome = strikes(fault, &[]).await;
            println!("{fault}: closed with {:?}, gone after {:?}", outcome.close, outcome.took);
            assert!(outcome.took < BOUND, "{fault}: {:?}", outcome.took);
        }
        for fault in ["bus listener=return", "bus reader=panic", "bus speaker=return"] {
            let outcome = crate::failing::strikes_a_node(fault).await;
            println!("{fault}: closed with {:?}, gone after {:?}", outcome.close, outcome.took);
            assert!(outcome.took < BOUND, "{fault}: {:?}", outcome.took);
        }
    }
}

#[cfg(not(any(debug_assertions, feature = "fault-injection")))]
#[tokio::test]
#[ignore = "soak"]
async fn a_release_has_no_faults_to_inject() {
    use crate::support::Process;

    let place = tempfile::TempDir::new().expect("a directory");
    let trigger = place.path().join("now");
    std::fs::File::create(&trigger).expect("a file");
    let fault = format!("writer=panic@{}", trigger.display());
    let server = Process::start_with(&place.path().join("data"), &[("FAULTS_TASK", &*fault)]).await;
    server.connects("alice").await.says("@alice", "stored").await;
}
