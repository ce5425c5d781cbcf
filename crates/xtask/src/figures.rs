//! The tables and plots of `docs/benchmarks.md`, made from the measurements of one benchmark run.

mod plot;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use self::plot::{Bar, bar_plot_svg};

/// The file with the measurements: the committed output of `switchboard-bench --json`.
pub const FIGURES_FILE: &str = "docs/benchmarks/figures.json";

/// The document that contains the tables.
pub const BENCHMARKS_DOCUMENT: &str = "docs/benchmarks.md";

/// The marks around the tables in the document.
const BEGIN_MARK: &str = "<!-- figures -->\n";
const END_MARK: &str = "<!-- end of figures -->\n";

/// The measured server whose bars are highlighted.
const OWN_SERVER: &str = "switchboard";
/// The prefix of the baselines' names. A baseline (floor) does only the work that any server must do.
const FLOOR: &str = "floor";

/// The measurements of one benchmark run.
#[derive(Debug, Deserialize)]
struct BenchmarkRun {
    machine: BTreeMap<String, String>,
    figures: Vec<Figure>,
}

#[derive(Debug, Deserialize)]
struct Figure {
    scenario: String,
    #[serde(rename = "subject")]
    measured_server: String,
    name: String,
    unit: String,
    median: f64,
    values: Vec<f64>,
}

/// A plot that compares the measured servers by one measurement.
struct Plot {
    file: &'static str,
    title: &'static str,
    scenario: &'static str,
    figure: &'static str,
    /// Converts a measured value to the unit of the plot.
    convert: fn(f64) -> f64,
}

const PLOTS: [Plot; 5] = [
    Plot {
        file: "fanout.svg",
        title: "One message to 1,000, 16 in flight: thousands of deliveries a second of the server's processor",
        scenario: "fanout, 1 to 1000, 16 in flight",
        figure: "cpu a delivery",
        convert: microseconds_to_thousands_per_second,
    },
    Plot {
        file: "rooms.svg",
        title: "20 rooms of 50, all to all: thousands of deliveries a second of the server's processor",
        scenario: "20 rooms of 50, all to all, 1 in flight",
        figure: "cpu a delivery",
        convert: microseconds_to_thousands_per_second,
    },
    Plot {
        file: "direct.svg",
        title: "500 pairs: thousands of messages a second of the server's processor",
        scenario: "direct, 500 pairs, 1 in flight",
        figure: "cpu a delivery",
        convert: microseconds_to_thousands_per_second,
    },
    Plot {
        file: "ack.svg",
        title: "64 senders: thousands of acknowledgements a second; the last three store nothing first",
        scenario: "ack, 64 senders",
        figure: "acks",
        convert: thousands,
    },
    Plot {
        file: "idle.svg",
        title: "Resident bytes for each idle connection",
        scenario: "idle, 5000 → 15000 connections",
        figure: "memory a connection",
        convert: unchanged_value,
    },
];

fn microseconds_to_thousands_per_second(microseconds: f64) -> f64 {
    1e3 / microseconds
}

fn thousands(value: f64) -> f64 {
    value / 1e3
}

fn unchanged_value(value: f64) -> f64 {
    value
}

/// Generates all files with tables and plots. Returns the path in the repository and the text of each.
///
/// # Errors
/// The measurements or the document cannot be read, or a measurement that a plot needs is missing.
pub fn render_figures(
    repository: &Path,
) -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let run: BenchmarkRun = serde_json::from_str(&std::fs::read_to_string(repository.join(FIGURES_FILE))?)?;
    let document = std::fs::read_to_string(repository.join(BENCHMARKS_DOCUMENT))?;
    let (before, rest) =
        document.split_once(BEGIN_MARK).ok_or("docs/benchmarks.md lacks the mark `<!-- figures -->`")?;
    let (_, after) =
        rest.split_once(END_MARK).ok_or("docs/benchmarks.md lacks the mark `<!-- end of figures -->`")?;
    let mut files = vec![(
        BENCHMARKS_DOCUMENT.to_owned(),
        format!("{before}{BEGIN_MARK}\n{}\n{END_MARK}{after}", result_tables(&run)),
    )];
    for plot in PLOTS {
        let drawn = run.figures.iter().filter(|f| f.scenario == plot.scenario && f.name == plot.figure);
        let drawn: Vec<_> = drawn
            .map(|f| Bar {
                label: &f.measured_server,
                value: (plot.convert)(f.median),
                is_highlighted: f.measured_server == OWN_SERVER,
            })
            .collect();
        if drawn.is_empty() {
            return Err(format!("no figure to plot in {}", plot.file).into());
        }
        files.push((format!("docs/benchmarks/{}", plot.file), bar_plot_svg(plot.title, &drawn)));
    }
    Ok(files)
}

/// One table for each scenario: a row for each measured server, a column for each measurement.
fn result_tables(run: &BenchmarkRun) -> String {
    let mut out = String::new();
    let machine: Vec<_> = run.machine.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let rounds = run.figures.iter().map(|f| f.values.len()).max().unwrap_or_default();
    // Writing to a string does not fail.
    let _ = writeln!(out, "Medians of {rounds} rounds of one run, on {}.", machine.join("; "));
    for scenario in unique_names(run.figures.iter().map(|f| f.scenario.as_str())) {
        let figures: Vec<_> = run.figures.iter().filter(|f| f.scenario == scenario).collect();
        let names = unique_names(figures.iter().map(|f| f.name.as_str()));
        let heads = names.iter().map(|name| {
            let unit = figures.iter().find(|f| f.name == *name).map_or("", |f| f.unit.as_str());
            if unit.is_empty() { (*name).to_owned() } else { format!("{name}, {unit}") }
        });
        let _ = writeln!(out, "\n### {scenario}\n");
        let _ = writeln!(out, "| | {} |", heads.collect::<Vec<_>>().join(" | "));
        let _ = writeln!(out, "|---{}|", "|--:".repeat(names.len()));
        for subject in unique_names(figures.iter().map(|f| f.measured_server.as_str())) {
            let cells = names.iter().map(|name| median_and_ratio_text(&figures, subject, name));
            let _ = writeln!(out, "| {subject} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    out
}

/// The text of a cell: the median and, in brackets, its ratio to the baseline's median.
fn median_and_ratio_text(figures: &[&Figure], subject: &str, name: &str) -> String {
    let find = |matches: &dyn Fn(&str) -> bool| {
        figures.iter().find(|f| f.name == name && matches(&f.measured_server)).map(|f| f.median)
    };
    let Some(median) = find(&|s| s == subject) else { return String::new() };
    let floor = find(&|s| s.starts_with(FLOOR)).filter(|floor| *floor > 0.0 && !subject.starts_with(FLOOR));
    match floor {
        Some(floor) => format!("{} ({}×)", to_three_digits(median), to_three_digits(median / floor)),
        None => to_three_digits(median),
    }
}

/// Removes repeated names; each stays where it occurred first.
fn unique_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Formats a value with three significant digits, or with all digits before the decimal point.
fn to_three_digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
