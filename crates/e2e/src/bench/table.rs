//! The table: a row per figure, a column per runtime, and the ratio of ours to the best peer.

use std::fmt::Write;

use super::measure::Figures;

/// One runtime's figures under its name; the first is ours.
pub type Column = (String, Figures);

/// The rows, each with p50 and p95 of every runtime and the ratio of ours to the best peer's p50.
pub fn render(columns: &[Column]) -> String {
    let mut text = String::from("| figure (p50 / p95) |");
    for (name, _) in columns {
        let _ = write!(text, " {name} |");
    }
    text.push_str(" ratio to the best peer |\n|---|");
    text.push_str(&"---|".repeat(columns.len() + 1));
    text.push('\n');
    for figure in columns[0].1.keys() {
        row(&mut text, figure, columns);
    }
    text
}

fn row(text: &mut String, figure: &str, columns: &[Column]) {
    let _ = write!(text, "| {figure} |");
    let halves: Vec<Option<f64>> =
        columns.iter().map(|(_, figures)| figures.get(figure).map(|v| part(v, 50))).collect();
    for ((_, figures), half) in columns.iter().zip(&halves) {
        let shown =
            half.zip(figures.get(figure)).map_or_else(|| "-".into(), |(half, all)| show(half, part(all, 95)));
        let _ = write!(text, " {shown} |");
    }
    let more_is_better = figure.contains("a second");
    let peers = halves[1..].iter().flatten().copied();
    let best = if more_is_better { peers.reduce(f64::max) } else { peers.reduce(f64::min) };
    let ratio =
        halves[0].zip(best).map(|(ours, best)| if more_is_better { ours / best } else { best / ours });
    let _ = writeln!(text, " {} |", ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}× better")));
}

fn show(half: f64, most: f64) -> String {
    if (half - most).abs() < f64::EPSILON { format!("{half:.2}") } else { format!("{half:.2} / {most:.2}") }
}

/// The value that `percent` of the values don't exceed.
fn part(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_the_sorted_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((part(&values, 50), part(&values, 95)), (50.0, 95.0));
        assert_eq!(part(&[7.0], 95), 7.0);
    }

    #[test]
    fn the_ratio_is_to_the_best_peer_whichever_way_is_better() {
        let figures = |time: f64, rate: f64| {
            Figures::from([("pod start, ms".into(), vec![time]), ("pods a second".into(), vec![rate])])
        };
        let columns = [("ours", 2.0, 60.0), ("a", 10.0, 20.0), ("b", 20.0, 30.0)]
            .map(|(name, time, rate)| (name.to_owned(), figures(time, rate)));
        let text = render(&columns);
        assert!(text.contains("| pod start, ms | 2.00 | 10.00 | 20.00 | 5.0× better |"), "{text}");
        assert!(text.contains("| pods a second | 60.00 | 20.00 | 30.00 | 2.0× better |"), "{text}");
    }
}
