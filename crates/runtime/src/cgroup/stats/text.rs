//! The forms in which the kernel tells numbers: pure.

use super::{Pressure, Stall};

/// Lines of `key value` (Documentation/admin-guide/cgroup-v2.rst, "Flat keyed"), each key with what its value is put into. One pass
/// over the text, whatever is wanted of it.
pub(super) fn flat_keyed(text: &str, mut take: impl FnMut(&str, u64)) {
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && let Ok(value) = value.trim_start().parse()
        {
            take(key, value);
        }
    }
}

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |name| text.lines().find_map(|line| stall(line.strip_prefix(name)?));
    Some(Pressure { some: line("some ")?, full: line("full ") })
}

fn stall(fields: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    for field in fields.split(' ') {
        match field.split_once('=')? {
            ("avg10", value) => stall.averages[0] = hundredths(value)?,
            ("avg60", value) => stall.averages[1] = hundredths(value)?,
            ("avg300", value) => stall.averages[2] = hundredths(value)?,
            ("total", value) => stall.total_us = value.parse().ok()?,
            _ => {}
        }
    }
    Some(stall)
}

/// A number with two decimals, as a whole number of hundredths.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 2 {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// `major:minor`.
pub(super) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_exactly() {
        let text = "some avg10=48.70 avg60=33.05 avg300=0.99 total=13908762333\n\
                    full avg10=100.00 avg60=0.00 avg300=0.00 total=7\n";
        let Pressure { some, full } = pressure(text).unwrap();
        assert_eq!(some, Stall { total_us: 13_908_762_333, averages: [4870, 3305, 99] });
        assert_eq!(full, Some(Stall { total_us: 7, averages: [10_000, 0, 0] }));
    }

    #[test]
    fn older_kernels_have_no_full_line_for_processors() {
        let found = pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
        assert_eq!((found.some.total_us, found.full), (5, None));
    }

    #[test]
    fn what_is_no_pressure_is_none() {
        for text in [
            "",
            "some",
            "some avg10=x avg60=0.00 avg300=0.00 total=0",
            "some avg10=1.5 total=1",
            "full total=1",
        ] {
            assert_eq!(pressure(text), None, "{text}");
        }
    }

    #[test]
    fn keyed_lines_are_told_one_by_one() {
        let mut found = Vec::new();
        flat_keyed("anon 5\nbroken\nfile  7\nname x\n", |key, value| found.push((key.to_owned(), value)));
        assert_eq!(found, [("anon".to_owned(), 5), ("file".to_owned(), 7)]);
    }
}
