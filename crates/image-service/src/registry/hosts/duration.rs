//! Lengths of time as Go's programs read and write them, such as `1m30s` (package time, `ParseDuration`).

use std::time::Duration;

/// Units with their nanoseconds; of two that begin alike, the longer one first.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Longest time that anybody waits for a connection, in nanoseconds: a day.
const LONGEST: f64 = 86_400e9;

/// Reads such a text. Nothing for what isn't one, is negative, or is longer than a day.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0.0;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, size) = UNITS.into_iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        nanoseconds += number * size;
        rest = &rest[end + unit.len()..];
        if rest.is_empty() {
            return (nanoseconds <= LONGEST).then(|| Duration::from_secs_f64(nanoseconds / 1e9));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("1s", 1_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("2000000ns", 2),
            ("3000µs", 3),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1 s", "1d", "1s2", "..s", "25h", "1e3s", "é", "1é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
