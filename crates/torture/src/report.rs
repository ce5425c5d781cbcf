//! The report at the end of a run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::record::Law;
use crate::world::World;

/// The results of a run, for the report.
pub(crate) struct Outcome {
    pub(crate) world: Arc<World>,
    /// How often each kind of fault occurred.
    pub(crate) faults: Vec<(String, u64)>,
    /// Text that is printed after the counts of the faults.
    pub(crate) text_after_fault_counts: String,
    /// Additional lines to print, and additional fields for the JSON file.
    pub(crate) extra_lines: Vec<String>,
    pub(crate) json_fields: Map<String, Value>,
    /// The number of messages in the log.
    pub(crate) stored: u64,
    pub(crate) duration: Duration,
}

impl Outcome {
    /// The outcome of a run that has just started: empty.
    pub(crate) fn of(world: Arc<World>) -> Self {
        let (faults, text_after_fault_counts, extra_lines, json_fields, stored, duration) =
            Default::default();
        Self { world, faults, text_after_fault_counts, extra_lines, json_fields, stored, duration }
    }

    /// Whether no law of the protocol was broken in the run.
    pub(crate) fn has_passed(&self) -> bool {
        self.world.record.lock().breach_count == 0
    }

    /// Prints the results, and writes them to a file as JSON if `json` is given.
    pub(crate) fn report(&self, seed: u64, seconds: u64, json: Option<&Path>) -> anyhow::Result<()> {
        let inner = self.world.record.lock();
        let counts = &inner.counts;
        for breach in &inner.breaches {
            print_line(&format!("\n{breach}"));
        }
        let of = |law: &[Law]| inner.breaches.iter().filter(|breach| law.contains(&breach.law)).count();
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        print_line(&format!(
            "seed {seed}, {seconds} s of faults: {}{}",
            faults.join(", "),
            self.text_after_fault_counts
        ));
        self.extra_lines.iter().for_each(|line| print_line(line));
        print_line(&format!(
            "tried {}, acknowledged {}, in the log {}, refused {}, answered as duplicates {}",
            counts.tried, counts.acknowledged, self.stored, counts.refused, counts.duplicates
        ));
        print_line(&format!(
            "other commands {}, delivered {}, shown by the SDK {}, connections {}, gaps {}, probes {}",
            counts.other_acknowledged,
            counts.delivered,
            counts.shown,
            counts.connections,
            counts.gaps,
            counts.probes
        ));
        print_line(&format!(
            "lost {}, duplicated {}, out of order {}, forbidden reads {}, other breaches {} (in all {}); {} s",
            of(&[Law::Lost]),
            of(&[Law::Doubled, Law::SeqChanged]),
            of(&[Law::OutOfOrder]),
            of(&[Law::Forbidden]),
            of(&[Law::SilentGap, Law::WentBack, Law::Mismatch, Law::WrongAnswer, Law::Stuck]),
            inner.breach_count,
            self.duration.as_secs()
        ));
        let Some(path) = json else { return Ok(()) };
        let faults: Map<String, Value> =
            self.faults.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
        let mut record = serde_json::json!({
            "seed": seed, "seconds": seconds, "rate": self.world.rate, "faults": faults, "counts": counts,
            "in_the_log": self.stored, "broken": inner.breach_count,
        });
        if let Value::Object(record) = &mut record {
            record.extend(self.json_fields.clone());
        }
        std::fs::write(path, format!("{record:#}\n"))?;
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
pub(crate) fn print_line(line: &str) {
    println!("{line}");
}
