//! The results: measurements by scenario and server, their medians, and their ratios to a reference of the same run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The prefix of the names of baselines (floors).
const FLOOR_NAME: &str = "floor";
/// The name of the server with which all others are compared.
const OWN_SERVER: &str = "switchboard";

/// All measurements of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Facts about the machine of the run, by name.
    machine: BTreeMap<&'static str, String>,
    figures: Vec<Figure>,
}

/// One measurement of one server, with a value for each round.
#[derive(Debug, Serialize)]
struct Figure {
    scenario: String,
    #[serde(rename = "subject")]
    measured_server: String,
    name: String,
    unit: String,
    median: f64,
    values: Vec<f64>,
}

/// Identifies a measurement: its scenario, the measured server, what was measured, and the unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FigureName<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) measured_server: &'a str,
    pub(crate) figure: &'a str,
    pub(crate) unit: &'a str,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { machine: describe_machine(), ..Self::default() }
    }

    /// Adds the value of another round to a measurement.
    pub(crate) fn add(&mut self, name: FigureName<'_>, value: f64) {
        let FigureName { scenario, measured_server: subject, figure, unit } = name;
        let same =
            |f: &&mut Figure| f.scenario == scenario && f.measured_server == subject && f.name == figure;
        let entry = match self.figures.iter_mut().find(same) {
            Some(entry) => entry,
            None => {
                self.figures.push(Figure {
                    scenario: scenario.to_owned(),
                    measured_server: subject.to_owned(),
                    name: figure.to_owned(),
                    unit: unit.to_owned(),
                    median: 0.0,
                    values: Vec::new(),
                });
                let last = self.figures.len() - 1;
                &mut self.figures[last]
            }
        };
        entry.values.push(value);
        entry.median = median(&entry.values);
    }

    /// Adds percentiles in milliseconds. `latency` has nanoseconds.
    pub(crate) fn add_latency(&mut self, scenario: &str, subject: &str, latency: &Histogram<u64>) {
        for (figure, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let name = FigureName { scenario, measured_server: subject, figure, unit: "ms" };
            self.add(name, latency.value_at_quantile(quantile) as f64 / 1e6);
        }
    }

    /// The measurements as JSON.
    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The measurements as a Markdown table. Each line has the ratio to the baseline's measurement and, for other servers, the
    /// ratio to Switchboard's.
    pub(crate) fn to_table(&self) -> String {
        let mut table = String::from(
            "| scenario | figure | subject | median | min – max | × floor | × ours |\n|---|---|---|--:|--:|--:|--:|\n",
        );
        for figure in &self.figures {
            let Figure { scenario, measured_server: subject, name, unit, median, values } = figure;
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let [to_floor, to_ours] =
                [FLOOR_NAME, OWN_SERVER].map(|reference| self.ratio_to(figure, reference));
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {scenario} | {name}, {unit} | {subject} | {} | {} – {} | {to_floor} | {to_ours} |",
                to_three_digits(*median),
                to_three_digits(least),
                to_three_digits(most)
            );
        }
        table
    }

    /// The ratio to the same measurement of a server whose name begins with `reference`. Empty for baselines and for the reference.
    fn ratio_to(&self, figure: &Figure, reference: &str) -> String {
        let other = self.figures.iter().find(|other| {
            other.scenario == figure.scenario
                && other.name == figure.name
                && other.measured_server.starts_with(reference)
                && other.median > 0.0
        });
        let below = figure.measured_server.starts_with(FLOOR_NAME) || figure.measured_server == reference;
        other.filter(|_| !below).map_or(String::new(), |other| format!("{:.2}", figure.median / other.median))
    }
}

/// The middle value, or the mean of the middle two if their number is even.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Formats a value with three significant digits, or with all digits before the decimal point.
fn to_three_digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn describe_machine() -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cores = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    BTreeMap::from([
        ("processor", field(&read("/proc/cpuinfo"), "model name")),
        ("cores", cores.to_string()),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        let rounds =
            [("floor", [1.0, 9.0, 2.0]), ("switchboard", [4.0, 3.0, 3.5]), ("other", [7.0, 7.0, 8.0])];
        for (subject, values) in rounds {
            for value in values {
                report.add(
                    FigureName { scenario: "fanout", measured_server: subject, figure: "cpu", unit: "µs" },
                    value,
                );
            }
        }
        report
    }

    #[test]
    fn the_printed_table_has_medians_and_their_ratios() {
        let table = report().to_table();
        assert!(table.contains("| fanout | cpu, µs | floor | 2.00 | 1.00 – 9.00 |  |  |"), "{table}");
        assert!(
            table.contains("| fanout | cpu, µs | switchboard | 3.50 | 3.00 – 4.00 | 1.75 |  |"),
            "{table}"
        );
        assert!(table.contains("| fanout | cpu, µs | other | 7.00 | 7.00 – 8.00 | 3.50 | 2.00 |"), "{table}");
    }

    #[test]
    fn the_median_of_two_values_is_their_mean() {
        assert_eq!(median(&[3.0, 1.0]), 2.0);
    }
}
