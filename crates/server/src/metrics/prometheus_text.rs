//! The Prometheus text format 0.0.4, for scrapers that do not read OpenMetrics, and for `promtool check metrics`.

use std::fmt::Write as _;

/// Converts OpenMetrics text. In OpenMetrics the name of a counter family lacks the `_total` of its samples, and the name of an
/// info family lacks `_info`; the Prometheus format has both. It has no `# UNIT` line and no `# EOF`.
pub(super) fn from_open_metrics(text: &str) -> String {
    let (mut out, mut help) = (String::with_capacity(text.len()), "");
    for line in text.lines() {
        if let Some(of_family) = line.strip_prefix("# HELP ") {
            help = of_family;
        } else if let Some((family, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let text = help.strip_prefix(family).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {family}{suffix}{text}\n# TYPE {family}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_like_their_samples() {
        let open = "# HELP a Events.\n# TYPE a counter\na_total 3\n# HELP b_seconds Time.\n# TYPE b_seconds gauge\n\
                    # UNIT b_seconds seconds\nb_seconds 1.5\n# HELP c Version.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_total Events.\n# TYPE a_total counter\na_total 3\n# HELP b_seconds Time.\n\
                    # TYPE b_seconds gauge\nb_seconds 1.5\n# HELP c_info Version.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(from_open_metrics(open), text);
    }
}
