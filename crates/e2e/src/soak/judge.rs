//! Whether a figure grew: by the median of the slopes between all pairs of its values (Theil and Sen), which neither a peak nor a
//! few of them move.

use super::figures::{Bound, FIGURES, Figure, Sample, Unit};
use super::plan::{Plan, Times};

/// What is said of a figure.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The figure.
    pub figure: Figure,
    /// The median of its values in the first tenth after the warm-up, and in the last.
    pub ends: [f64; 2],
    /// How much it grows with a thousand pods.
    pub slope: f64,
    /// How much it has grown by that from the warm-up to the end.
    pub grown: f64,
    /// How much it may.
    pub most: f64,
}

impl Verdict {
    /// Whether it grew no more than it may.
    pub fn is_well(&self) -> bool {
        // What nobody had a value for didn't grow.
        self.grown.is_nan() || self.grown <= self.most
    }
}

/// Judges all figures.
pub fn all(plan: &Plan, samples: &[Sample]) -> Vec<Verdict> {
    let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.made >= plan.warm()).collect();
    let one = |place: usize| {
        let points: Vec<(f64, f64)> =
            warm.iter().map(|sample| (sample.made as f64 / 1000.0, sample.values[place])).collect();
        judged(FIGURES[place], plan.times, &points)
    };
    (0..FIGURES.len()).map(one).collect()
}

/// Judges a figure by its values at so many thousand pods, in their order.
fn judged(figure: Figure, times: Times, points: &[(f64, f64)]) -> Verdict {
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let window = points.last().map_or(0.0, |last| last.0 - points[0].0);
    let slope = median(slopes(&points));
    let values = |points: &[(f64, f64)]| median(points.iter().map(|(_, value)| *value).collect());
    let tenth = points.len().div_ceil(10);
    let most = match figure.bound {
        Bound::Most(most) => most,
        Bound::Share(_) if times == Times::Shown => f64::INFINITY,
        Bound::Share(share) => share * values(&points),
    };
    debug_assert!(matches!(figure.bound, Bound::Most(_)) == (figure.unit != Unit::Time), "{figure:?}");
    let ends = [values(&points[..tenth]), values(&points[points.len() - tenth..])];
    Verdict { figure, ends, slope, grown: slope * window, most }
}

fn slopes(points: &[(f64, f64)]) -> Vec<f64> {
    let mut slopes = Vec::new();
    for (number, (x, y)) in points.iter().enumerate() {
        let later = points[number + 1..].iter().filter(|(later, _)| later > x);
        slopes.extend(later.map(|(later, value)| (value - y) / (later - x)));
    }
    slopes
}

/// The middle one; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dice;
    use crate::soak::figures::place_of;

    fn points(grows: f64) -> Vec<(f64, f64)> {
        let mut dice = Dice::new(7);
        let noise = |dice: &mut Dice| dice.below(7) as f64;
        (0..100)
            .map(|number| (f64::from(number) / 10.0, 50.0 + noise(&mut dice) + grows * f64::from(number)))
            .collect()
    }

    #[test]
    fn what_only_swings_is_well_and_what_grows_is_not() {
        let figure = FIGURES[place_of("daemon, descriptors")];
        assert!(judged(figure, Times::Shown, &points(0.0)).is_well());
        // One descriptor in a hundred pods, ten thousand pods.
        let leak = judged(figure, Times::Shown, &points(1.0));
        assert!(!leak.is_well() && (leak.slope - 10.0).abs() < 1.0, "{leak:?}");
        assert!(judged(figure, Times::Shown, &[]).is_well());
    }

    #[test]
    fn a_peak_is_no_growth() {
        let figure = FIGURES[place_of("daemon, descriptors")];
        let mut swings = points(0.0);
        for point in &mut swings[80..90] {
            point.1 = 500.0;
        }
        assert!(judged(figure, Times::Shown, &swings).is_well());
    }

    #[test]
    fn times_are_judged_where_they_mean_something() {
        let figure = FIGURES[place_of("exec probe, p50")];
        let slower = points(1.0);
        assert!(judged(figure, Times::Shown, &slower).is_well());
        assert!(!judged(figure, Times::Judged, &slower).is_well());
    }
}
