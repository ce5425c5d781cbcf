//! Horizontal bars, in SVG.

use std::fmt::Write as _;

use super::short;

/// A bar with its name and its length.
pub(super) struct Bar<'a> {
    pub(super) label: &'a str,
    pub(super) value: f64,
    /// Whether it is ours, which stands out.
    pub(super) ours: bool,
}

const WIDTH: f64 = 720.0;
const LABELS: f64 = 170.0;
/// Room for the number behind the longest bar.
const NUMBERS: f64 = 70.0;
const ROW: f64 = 28.0;
const TOP: f64 = 40.0;

/// For a light page and for a dark one, as whoever reads it prefers.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.bar{fill:#9aa4b2}.ours{fill:#0b6bcb}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#59636e}.ours{fill:#4aa3ff}}";

/// A plot of bars, one below the other.
pub(super) fn bars(title: &str, bars: &[Bar<'_>]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW.mul_add(bars.len() as f64, TOP + 8.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{STYLE}</style>\n<text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n"
    );
    for (row, Bar { label, value, ours }) in bars.iter().enumerate() {
        let y = ROW.mul_add(row as f64, TOP);
        let width = (WIDTH - LABELS - NUMBERS) * value / most;
        let class = if *ours { "bar ours" } else { "bar" };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" rx=\"3\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABELS - 8.0,
            y + 15.0,
            LABELS + width + 6.0,
            y + 15.0,
            short(*value)
        );
    }
    out.push_str("</svg>\n");
    out
}
