//! Draws horizontal bar charts as SVG.

use std::fmt::Write as _;

use super::to_three_digits;

/// One bar.
pub(super) struct Bar<'a> {
    pub(super) label: &'a str,
    pub(super) value: f64,
    /// Whether the bar is highlighted, because it is that of Switchboard.
    pub(super) is_highlighted: bool,
}

const PLOT_WIDTH: f64 = 720.0;
const LABEL_WIDTH: f64 = 170.0;
/// The space to the right of the longest bar for its number, in pixels.
const NUMBER_WIDTH: f64 = 70.0;
const ROW_HEIGHT: f64 = 28.0;
const TITLE_HEIGHT: f64 = 40.0;

/// The styles of a plot. The colours follow the reader's preference for a light or a dark page.
const PLOT_CSS: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.bar{fill:#9aa4b2}.ours{fill:#0b6bcb}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#59636e}.ours{fill:#4aa3ff}}";

/// A plot of bars, one below the other.
pub(super) fn bar_plot_svg(title: &str, bars: &[Bar<'_>]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW_HEIGHT.mul_add(bars.len() as f64, TITLE_HEIGHT + 8.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {PLOT_WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{PLOT_CSS}</style>\n<text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n"
    );
    for (row, Bar { label, value, is_highlighted: ours }) in bars.iter().enumerate() {
        let y = ROW_HEIGHT.mul_add(row as f64, TITLE_HEIGHT);
        let width = (PLOT_WIDTH - LABEL_WIDTH - NUMBER_WIDTH) * value / most;
        let class = if *ours { "bar ours" } else { "bar" };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"20\" rx=\"3\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LABEL_WIDTH - 8.0,
            y + 15.0,
            LABEL_WIDTH + width + 6.0,
            y + 15.0,
            to_three_digits(*value)
        );
    }
    out.push_str("</svg>\n");
    out
}
