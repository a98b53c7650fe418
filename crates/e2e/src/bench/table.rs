//! The table: a row per figure, a column per runtime, and the ratio of ours to the best peer.

use std::fmt::Write;

use super::budgets::{self, Measured};
use super::floor::Floor;
use super::measure::{Figures, NATIVE};

/// One runtime's figures under its name; the first is ours.
pub type Column = (String, Figures);

/// The rows, each with p50 and p95 of every runtime, the floor where it means something, the ratio of ours to the best
/// peer's p50 and the budgets.
pub fn render(columns: &[Column], floor: Option<&Floor>) -> String {
    let mut text = String::from("| figure (p50 / p95) |");
    for (name, _) in columns {
        let _ = write!(text, " {name} |");
    }
    text.push_str(" floor | ratio to the best peer | budget |\n|---|");
    text.push_str(&"---|".repeat(columns.len() + 3));
    text.push('\n');
    for figure in columns[0].1.keys() {
        row(&mut text, figure, columns, floor.filter(|_| figure.ends_with("pod start, ms")));
    }
    text
}

fn row(text: &mut String, figure: &str, columns: &[Column], floor: Option<&Floor>) {
    let _ = write!(text, "| {figure} |");
    for (_, figures) in columns {
        let shown = of(figures, figure).map_or_else(|| "-".into(), |all| show(part(all, 50), part(all, 95)));
        let _ = write!(text, " {shown} |");
    }
    let ours = columns[0].1.get(figure).map_or(f64::NAN, |all| part(all, 50));
    let floors = floor.map(|floor| ours / floor.half);
    match floor.zip(floors) {
        Some((floor, floors)) => {
            let _ = write!(text, " {} (ours {floors:.1}×) |", show(floor.half, floor.most));
        }
        None => text.push_str(" |"),
    }
    let better = better(figure, ours, &columns[1..]);
    let ratio = better.iter().map(|(_, ratio)| *ratio).reduce(f64::min);
    let _ = write!(text, " {} |", ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}× better")));
    let best = |figure: &str| {
        let peers = columns[1..].iter().filter_map(|(_, figures)| of(figures, figure));
        peers.map(|all| part(all, 50)).reduce(f64::min)
    };
    let worst = columns[0].1.get(figure).map_or(f64::NAN, |all| part(all, 99));
    let measured = Measured { better: &better, ours, worst, floors, best: &best };
    let judged: Vec<String> = budgets::of(figure).iter().map(|budget| budget.judged(&measured)).collect();
    let _ = writeln!(text, " {} |", judged.join("; "));
}

/// How many times better ours is than each peer's p50.
fn better(figure: &str, ours: f64, peers: &[Column]) -> Vec<(String, f64)> {
    let more_is_better = figure.contains("a second");
    let ratio = |theirs: f64| if more_is_better { ours / theirs } else { theirs / ours };
    let with_figure = peers.iter().filter_map(|(name, figures)| Some((name, of(figures, figure)?)));
    with_figure.map(|(name, all)| (name.clone(), ratio(part(all, 50)))).collect()
}

/// What ours does natively is compared with what a peer does as it can.
fn of<'a>(figures: &'a Figures, figure: &str) -> Option<&'a Vec<f64>> {
    figures.get(figure).or_else(|| figures.get(figure.strip_prefix(NATIVE)?))
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
    fn a_native_figure_is_compared_with_the_peers_plain_one() {
        let ours = Figures::from([("native CNI: pod start, ms".into(), vec![2.0])]);
        let peers = Figures::from([("CNI: pod start, ms".into(), vec![20.0])]);
        let text = render(&[("ours".into(), ours), ("peer".into(), peers)], None);
        assert!(text.contains("| native CNI: pod start, ms | 2.00 | 20.00 | | 10.0× better |"), "{text}");
    }

    #[test]
    fn the_ratio_is_to_the_best_peer_whichever_way_is_better() {
        let figures = |time: f64, rate: f64| {
            Figures::from([("pod start, ms".into(), vec![time]), ("pods a second".into(), vec![rate])])
        };
        let columns = [("ours", 2.0, 60.0), ("a", 10.0, 20.0), ("b", 20.0, 30.0)]
            .map(|(name, time, rate)| (name.to_owned(), figures(time, rate)));
        let text = render(&columns, Some(&Floor { half: 0.5, most: 0.7 }));
        assert!(
            text.contains("| pod start, ms | 2.00 | 10.00 | 20.00 | 0.50 / 0.70 (ours 4.0×) | 5.0× better |"),
            "{text}"
        );
        assert!(text.contains("| pods a second | 60.00 | 20.00 | 30.00 | | 2.0× better |"), "{text}");
    }
}
