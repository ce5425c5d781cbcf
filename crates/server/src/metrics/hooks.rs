//! The metrics of the hook.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::ReasonLabels;
use crate::config::Ask;

/// Why there was no answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookFailure {
    /// There was no connection.
    NoConnection,
    /// The connection ended before the answer.
    Connection,
    /// The answer took too long.
    Timeout,
    /// The status is neither 200 nor 204.
    Status,
    /// The answer is too long.
    TooLarge,
    /// The answer says nothing that the server understands.
    Unreadable,
    /// The status says that the application does not take this request: 400, 413, 422.
    Rejected,
    /// The answer decides what cannot be done: a replacement that is not valid, or `hold`.
    Unusable,
    /// The question was not asked, because there were no answers before.
    NotAsked,
}

impl HookFailure {
    const ALL: [Self; 8] = [
        Self::Connection,
        Self::Timeout,
        Self::Status,
        Self::TooLarge,
        Self::Unreadable,
        Self::Rejected,
        Self::Unusable,
        Self::NotAsked,
    ];

    /// Whether the application has answered, and has not accepted. What users write must not make it the same as no answer.
    pub(crate) fn is_decision(self) -> bool {
        matches!(self, Self::Rejected | Self::Unusable)
    }

    /// The failure's name in metrics and log lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoConnection | Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Rejected => "rejected",
            Self::Unusable => "unusable",
            Self::NotAsked => "not_asked",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AskLabels {
    ask: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    ask: &'static str,
    action: &'static str,
}

/// The metrics of the hook. Without one they stay zero.
#[derive(Debug, Clone)]
pub(crate) struct HookMetrics {
    questions: Family<AskLabels, Counter>,
    answers: Family<AnswerLabels, Counter>,
    failures: Family<ReasonLabels, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    waiting: Gauge,
    open: Gauge,
}

impl Default for HookMetrics {
    fn default() -> Self {
        Self {
            questions: Family::default(),
            answers: Family::default(),
            failures: Family::default(),
            // 0.5 ms to 16 s: a local PHP answers in some milliseconds, and no question may take more than 10 s.
            seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            open: Gauge::default(),
        }
    }
}

/// Counts one more in a gauge until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl HookMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("hook_questions", "Questions asked, by what about", self.questions.clone());
        let help = "Answers to questions, by what about and what they decide";
        registry.register("hook_answers", help, self.answers.clone());
        let help = "Questions without an answer, by reason";
        registry.register("hook_failures", help, self.failures.clone());
        let help = "From sending a question to its answer or failure";
        registry.register_with_unit("hook", help, Unit::Seconds, self.seconds.clone());
        registry.register("hook_in_flight", "Questions that are being asked", self.in_flight.clone());
        let help = "Questions that wait, because too many are being asked";
        registry.register("hook_waiting", help, self.waiting.clone());
        let help = "Whether nothing is asked for a while, because there were no answers";
        registry.register("hook_paused", help, self.open.clone());
    }

    /// Exports every counter of the questions that are asked as zero.
    pub(crate) fn begin_at_zero(&self, asks: impl Iterator<Item = Ask>) {
        for ask in asks.map(Ask::as_str) {
            drop(self.questions.get_or_create(&AskLabels { ask }));
            for action in ["accept", "replace", "refuse"] {
                drop(self.answers.get_or_create(&AnswerLabels { ask, action }));
            }
        }
        for failure in HookFailure::ALL {
            drop(self.failures.get_or_create(&ReasonLabels { reason: failure.as_str() }));
        }
    }

    /// Counts a question, which is in flight until the result is dropped.
    pub(crate) fn begin(&self, ask: Ask) -> Counted {
        self.questions.get_or_create(&AskLabels { ask: ask.as_str() }).inc();
        Counted::new(&self.in_flight)
    }

    /// Counts a question that waits until the result is dropped.
    pub(crate) fn begin_waiting(&self) -> Counted {
        Counted::new(&self.waiting)
    }

    pub(crate) fn count_answer(&self, ask: Ask, action: &'static str) {
        self.answers.get_or_create(&AnswerLabels { ask: ask.as_str(), action }).inc();
    }

    pub(crate) fn count_failure(&self, failure: HookFailure) {
        self.failures.get_or_create(&ReasonLabels { reason: failure.as_str() }).inc();
    }

    pub(crate) fn observe(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Records whether nothing is asked for a while.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.set(open.into());
    }
}
