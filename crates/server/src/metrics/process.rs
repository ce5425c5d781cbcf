//! Metrics of the process from the kernel, read at each scrape. They have the names that the client libraries of Prometheus use.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rlimit::Resource;
use rustix::param::{clock_ticks_per_second, page_size};

/// Collects the metrics of this process from `/proc` (proc(5)). A metric that cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// The fields of `/proc/self/stat` from the third one on, which is the state of the process.
struct ProcessStat(Vec<u64>);

impl ProcessStat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in parentheses, may contain spaces.
        let (_, fields) = text.rsplit_once(") ")?;
        Some(Self(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect()))
    }

    /// Returns a field by its number in proc(5).
    fn field(&self, number: usize) -> Option<u64> {
        self.0.get(number.checked_sub(3)?).copied()
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Some(ticks_to_seconds(self.field(14)? + self.field(15)?))
    }

    fn resident_bytes(&self) -> Option<u64> {
        self.field(24).map(|pages| pages * page_size() as u64)
    }

    fn start_time(&self) -> Option<f64> {
        let of_system = fs::read_to_string("/proc/stat").ok()?;
        let boot = of_system.lines().find_map(|line| line.strip_prefix("btime "))?;
        Some(boot.trim().parse::<f64>().ok()? + ticks_to_seconds(self.field(22)?))
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 ticks are millions of years")]
fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    ProcessStat::read()?.resident_bytes()
}

/// Writes the metric families of one scrape.
pub(super) struct MetricFamilies<'a>(pub(super) DescriptorEncoder<'a>);

impl MetricFamilies<'_> {
    pub(super) fn add(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<&Unit>,
        metric: Option<impl EncodeMetric>,
    ) -> Result<(), Error> {
        let Some(metric) = metric else { return Ok(()) };
        metric.encode(self.0.encode_descriptor(name, help, unit, metric.metric_type())?)
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let Some(stat) = ProcessStat::read() else { return Ok(()) };
        // One of the listed descriptors is open only for reading this directory.
        let open = fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as u64);
        let most = Resource::NOFILE.get().ok().map(|(soft, _)| soft);
        let resident = stat.resident_bytes();
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let mut families = MetricFamilies(encoder);
        let cpu = stat.cpu_seconds().map(ConstCounter::new);
        families.add(("process_cpu", "Processor time of the process, user and system"), seconds, cpu)?;
        let start = stat.start_time().map(ConstGauge::new);
        families.add(("process_start_time", "When the process started, since 1970"), seconds, start)?;
        families.add(("process_resident_memory", "Resident memory"), bytes, resident.map(ConstGauge::new))?;
        let virtual_memory = stat.field(23).map(ConstGauge::new);
        families.add(("process_virtual_memory", "Virtual memory"), bytes, virtual_memory)?;
        families.add(("process_threads", "Threads"), None, stat.field(20).map(ConstGauge::new))?;
        families.add(("process_open_fds", "Open file descriptors"), None, open.map(ConstGauge::new))?;
        families.add(("process_max_fds", "Limit of open file descriptors"), None, most.map(ConstGauge::new))
    }
}
