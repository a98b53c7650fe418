//! Figures in the text format that Prometheus had before OpenMetrics (version 0.0.4), for those who don't ask for the newer
//! one: made from it, line by line.
//!
//! | OpenMetrics | here |
//! |---|---|
//! | a counter is described without the `_total` of its samples | with it |
//! | `# UNIT`, `# EOF` | nothing |

/// The type of the answer.
pub(super) const FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites figures in OpenMetrics' form.
pub(super) fn text(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(help) = line.strip_prefix("# HELP ") else {
            // Descriptions come as HELP, TYPE, UNIT.
            if !line.starts_with("# UNIT ") && line != "# EOF" {
                classic.extend([line, "\n"]);
            }
            continue;
        };
        let (name, words) = help.split_once(' ').unwrap_or((help, ""));
        let form = lines.next_if(|line| line.starts_with("# TYPE ")).and_then(|line| line.rsplit(' ').next());
        let form = form.unwrap_or("untyped");
        let suffix = if form == "counter" { "_total" } else { "" };
        classic.push_str(&format!("# HELP {name}{suffix} {words}\n# TYPE {name}{suffix} {form}\n"));
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
                    a_seconds_total{stage=\"x y\"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2\n# EOF\n";
        let classic = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\n\
                       a_seconds_total{stage=\"x y\"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(text(open), classic);
    }
}
