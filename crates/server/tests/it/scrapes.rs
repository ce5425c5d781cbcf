//! Checks that `/metrics` has the form that Prometheus can read.

use std::collections::BTreeMap;

use switchboard_protocol::ErrorCode;

use crate::support::{Process, Server};

/// Returns the type of each metric family. Also checks that a family has one HELP line before its TYPE line, and that each sample
/// belongs to the family above it.
fn metric_types(text: &str) -> BTreeMap<&str, &str> {
    let (mut families, mut helped) = (BTreeMap::new(), "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').filter(|(_, help)| help.len() > 3).expect("a help").0;
        } else if let Some((family, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            assert_eq!(family, helped, "{line}");
            assert!(families.insert(family, kind).is_none(), "{family} is there twice");
        } else {
            let sample = line.split(['{', ' ']).next().expect("a name");
            let suffixes =
                if families[helped] == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| sample.strip_suffix(suffix) == Some(helped)), "{line}");
        }
    }
    families
}

#[tokio::test]
async fn prometheus_reads_every_family_with_its_type_and_its_help() {
    let server = Server::start().await;
    let page = server.gets("/metrics").await;
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let families = metric_types(&page.text);
    for (family, kind) in &families {
        assert_eq!(*kind == "counter", family.ends_with("_total"), "{family} is a {kind}");
    }
    for (family, kind) in [
        ("process_cpu_seconds_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_threads", "gauge"),
        ("switchboard_build_info", "gauge"),
        ("switchboard_commit_seconds", "histogram"),
    ] {
        assert_eq!(families.get(family), Some(&kind), "{family}");
    }
    let build = format!("switchboard_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(server.metric(&build).await, 1.0);
}

#[tokio::test]
async fn counters_exist_before_their_first_increment() {
    let server = Server::start().await;
    for code in ErrorCode::ALL {
        let refused = format!("switchboard_refused_total{{code=\"{}\"}}", code.as_str());
        assert_eq!(server.metric(&refused).await, 0.0, "{refused}");
    }
    for reason in ["rate_limit", "too_far_behind", "signal_queue_full", "revoked"] {
        assert_eq!(server.metric(&format!("switchboard_dropped_total{{reason=\"{reason}\"}}")).await, 0.0);
    }
}

#[tokio::test]
async fn the_metrics_of_the_process_are_those_of_the_kernel() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Process::start(data.path()).await;
    let page = server.gets("/metrics").await.text;
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name);
        line.parse::<f64>().expect("a number")
    };
    let close = |of_page: f64, of_kernel: f64| (of_page - of_kernel).abs() <= of_kernel / 4.0;
    let resident = server.resident_bytes() as f64;
    assert!(close(value("process_resident_memory_bytes"), resident), "{resident}: {page}");
    assert!(value("process_cpu_seconds_total") <= server.processor_time().as_secs_f64(), "{page}");
    assert!(
        value("process_open_fds") > 10.0 && value("process_max_fds") >= value("process_open_fds"),
        "{page}"
    );
    let now = std::fs::metadata(data.path()).expect("it exists").modified().expect("a time");
    let now = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((value("process_start_time_seconds") - now).abs() < 60.0, "{page}");
}
