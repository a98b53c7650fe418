//! The run as a picture: small charts of what belongs together over the pods made, as SVG without scripts, fonts or a background.
//!
//! Colours are of a middling brightness, so that lines and text can be read on white and on black alike: a picture that is
//! shown in a page can't know which of them the page has chosen.

use std::fmt::Write;

use super::figures::{FIGURES, Sample, Unit, place_of};

/// A small chart.
struct Panel {
    title: &'static str,
    scale: Scale,
    /// What lines are called, and whose values they have.
    lines: &'static [(&'static str, &'static str)],
}

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From 0.
    Even,
    /// Each ten times as much is as high again: what lies far apart.
    Tenfold,
}

const PANELS: [Panel; 8] = [
    Panel {
        title: "Daemon, MiB",
        scale: Scale::Even,
        lines: &[("RSS", "daemon, RSS"), ("PSS", "daemon, PSS"), ("anonymous", "daemon, anonymous memory")],
    },
    Panel {
        title: "A supervisor, PSS, KiB",
        scale: Scale::Even,
        lines: &[("mean of all", "a supervisor, PSS")],
    },
    Panel {
        title: "Daemon: descriptors, tasks, threads",
        scale: Scale::Even,
        lines: &[
            ("descriptors", "daemon, descriptors"),
            ("tasks", "daemon, tasks"),
            ("threads", "daemon, threads"),
        ],
    },
    Panel {
        title: "Node: what pods take",
        scale: Scale::Tenfold,
        lines: &[
            ("cgroups", "cgroups of pods, in all hierarchies"),
            ("processes", "processes"),
            ("links", "network links"),
            ("namespaces", "network namespaces"),
        ],
    },
    Panel {
        title: "Files",
        scale: Scale::Tenfold,
        lines: &[
            ("below state", "files below state"),
            ("below root", "files below root"),
            ("addresses", "addresses"),
        ],
    },
    Panel {
        title: "Start of a pod; stop and removal, ms",
        scale: Scale::Tenfold,
        lines: &[
            ("start p50", "start a pod, p50"),
            ("start p99", "start a pod, p99"),
            ("stop p50", "stop and remove a pod, p50"),
            ("stop p99", "stop and remove a pod, p99"),
        ],
    },
    Panel {
        title: "Exec probe; pull, ms",
        scale: Scale::Tenfold,
        lines: &[("exec p50", "exec probe, p50"), ("exec p99", "exec probe, p99"), ("pull p50", "pull, p50")],
    },
    Panel {
        title: "Lists; statistics of all, ms",
        scale: Scale::Tenfold,
        lines: &[
            ("lists p50", "list pods and containers, p50"),
            ("lists p99", "list pods and containers, p99"),
            ("statistics p50", "statistics of all, p50"),
            ("statistics p99", "statistics of all, p99"),
        ],
    },
];

/// Contrast of at least 4 to 1 with white and with GitHub's dark page (#0d1117).
const TEXT: &str = "#737c87";
const LINES: [&str; 4] = ["#2f81f7", "#d9660f", "#2da44e", "#a475f9"];

/// Pixels: of a chart, the space around it, and what is left inside it for axis and title.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 30.0;
const RIGHT: f64 = 16.0;

/// Charts beside each other.
const COLUMNS: usize = 2;

/// Draws the samples.
pub fn svg(title: &str, samples: &[Sample]) -> String {
    let rows = PANELS.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"11\" fill=\"{TEXT}\">\n<title>{title}</title>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let (x, y) = ((number % COLUMNS) as f64 * WIDTH, (number / COLUMNS) as f64 * HEIGHT);
        let _ = writeln!(text, "<g transform=\"translate({x} {y})\">");
        draw(&mut text, panel, samples);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, panel: &Panel, samples: &[Sample]) {
    let lines: Vec<Vec<(f64, f64)>> = panel.lines.iter().map(|(_, figure)| points(figure, samples)).collect();
    let most = samples.last().map_or(1.0, |last| last.made as f64).max(1.0);
    let axis = Axis::of(panel.scale, lines.iter().flatten().map(|(_, value)| *value));
    let across = |made: f64| LEFT + (WIDTH - LEFT - RIGHT) * made / most;
    let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"14\" font-weight=\"600\">{}</text>", panel.title);
    for (value, label) in axis.marks() {
        let (y, end) = (axis.height(value), WIDTH - RIGHT);
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"{TEXT}\" stroke-opacity=\".25\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for part in 0..=4 {
        let made = most * f64::from(part) / 4.0;
        let anchor = if part == 4 { "end" } else { "middle" };
        let label = if part == 4 { format!("{made:.0} pods made") } else { format!("{made:.0}") };
        let (x, y) = (across(made), HEIGHT - BOTTOM + 16.0);
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{label}</text>");
    }
    let mut beside = LEFT;
    for ((name, _), (points, colour)) in panel.lines.iter().zip(lines.iter().zip(LINES)) {
        let _ = writeln!(text, "<text x=\"{beside:.0}\" y=\"30\" fill=\"{colour}\">{name}</text>");
        beside += name.len() as f64 * 6.2 + 14.0;
        let path = path(points.iter().map(|(made, value)| (across(*made), axis.height(*value))));
        let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\"/>");
    }
}

/// The values of a figure, memory of the daemon in MiB; what there is no value of is left out.
fn points(figure: &str, samples: &[Sample]) -> Vec<(f64, f64)> {
    let place = place_of(figure);
    let is_large = FIGURES[place].unit == Unit::KiB && figure.starts_with("daemon");
    let divisor = if is_large { 1024.0 } else { 1.0 };
    let all = samples.iter().map(|sample| (sample.made as f64, sample.values[place] / divisor));
    all.filter(|(_, value)| value.is_finite()).collect()
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut text = String::new();
    for (x, y) in points {
        let _ = write!(text, "{}{x:.1} {y:.1}", if text.is_empty() { "M" } else { "L" });
    }
    text
}

/// What stands at the left of a chart.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Axis {
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let largest = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Even => Self { scale, least: 0.0, most: rounded_up(largest) },
            Scale::Tenfold => {
                let smallest = values.filter(|value| *value > 0.0).fold(largest.max(1.0), f64::min);
                let power = |value: f64| value.max(0.01).log10();
                let (least, most) = (power(smallest).floor(), power(largest).ceil());
                Self { scale, least, most: most.max(least + 1.0) }
            }
        }
    }

    /// From the top of the chart, in pixels.
    fn height(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Even => value,
            Scale::Tenfold => value.max(10f64.powf(self.least)).log10(),
        };
        let share = (value - self.least) / (self.most - self.least);
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)
    }

    /// Values that get a line, with what is written beside it.
    fn marks(&self) -> Vec<(f64, String)> {
        let marks = match self.scale {
            Scale::Even => (0..=4).map(|part| self.most * f64::from(part) / 4.0).collect::<Vec<_>>(),
            Scale::Tenfold => {
                let powers = (self.most - self.least).round() as u32;
                (0..=powers).map(|power| 10f64.powf(self.least + f64::from(power))).collect()
            }
        };
        marks.into_iter().map(|value| (value, format!("{}", (value * 100.0).round() / 100.0))).collect()
    }
}

/// The next of 1, 2, 4 or 8 with zeros.
fn rounded_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(0.001).log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_inside_of_its_chart() {
        let sample =
            |made: usize| Sample { at: made as f64, made, values: [(made + 1) as f64; FIGURES.len()] };
        let samples: Vec<Sample> = (0..50).map(|number| sample(number * 200)).collect();
        let drawn = svg("a run", &samples);
        let lines: usize = PANELS.iter().map(|panel| panel.lines.len()).sum();
        assert_eq!(drawn.matches("stroke-width").count(), lines);
        let paths = drawn.split("<path d=\"M").skip(1).filter_map(|rest| rest.split_once('"'));
        for (path, _) in paths.filter(|(path, _)| path.contains('L')) {
            for point in path.split('L') {
                let (x, y) = point.split_once(' ').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn a_run_without_a_value_is_drawn_too() {
        let nothing = Sample { at: 0.0, made: 0, values: [f64::NAN; FIGURES.len()] };
        assert!(!svg("none", &[nothing]).contains("NaN"));
        assert_eq!([0.7, 3.0, 30.0, 81.0].map(rounded_up), [0.8, 4.0, 40.0, 100.0]);
    }
}
