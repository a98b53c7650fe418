//! Kubernetes quantities: `1.5M`, `100Ki`, `2e6`.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a sign, digits with at most one point, and a binary suffix, a
//! decimal suffix or a decimal exponent. Not here: negative amounts, which nothing that this runtime reads can mean.

/// The powers of ten that decimal suffixes stand for.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// The powers of two that binary suffixes stand for.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// The amount that a text stands for, a fraction rounded up as Kubernetes does. `None` for what is no quantity, is negative, or
/// doesn't fit.
pub(crate) fn read(text: &str) -> Option<u64> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (mantissa, places) = mantissa(number)?;
    if let Some((_, bits)) = BINARY.into_iter().find(|(name, _)| *name == suffix) {
        return scaled(mantissa.checked_mul(1 << bits)?, -places);
    }
    let exponent = match DECIMAL.into_iter().find(|(name, _)| *name == suffix) {
        Some((_, power)) => power,
        None => exponent(suffix)?,
    };
    scaled(mantissa, exponent.checked_sub(places)?)
}

/// `12.50` as 125 with one decimal place.
fn mantissa(number: &str) -> Option<(u128, i32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("0{whole}{fraction}");
    Some((digits.parse().ok()?, i32::try_from(fraction.len()).ok()?))
}

/// `e6`, `E-3`.
fn exponent(suffix: &str) -> Option<i32> {
    suffix.strip_prefix(['e', 'E'])?.parse().ok()
}

fn scaled(mantissa: u128, power: i32) -> Option<u64> {
    if mantissa == 0 {
        return Some(0);
    }
    let factor = 10_u128.checked_pow(power.unsigned_abs());
    let amount = match factor {
        Some(factor) if power >= 0 => mantissa.checked_mul(factor)?,
        Some(factor) => mantissa.div_ceil(factor),
        // So small a part of one that it can't be told, or too large.
        None if power < 0 => 1,
        None => return None,
    };
    u64::try_from(amount).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let cases = [
            ("512", 512),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            ("+1M", 1_000_000),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("1e+3", 1_000),
            ("15e-1", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("3P", 3_000_000_000_000_000),
            ("1Ki", 1_024),
            ("1.5Gi", 1_610_612_736),
            ("500m", 1),
            ("1500m", 2),
            ("1n", 1),
            (".5k", 500),
            ("5.", 5),
            ("0.10", 1),
            ("0e99", 0),
            ("1e-99", 1),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "", "M", ".", "+", "-1", "--1", "1.2.3", "1 M", "1MB", "1ki", "1K", "e6", "1e", "1e1.5", "20E",
            "1e99", "ten", "٣",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC*") {
            let _read = read(&text);
        }

        #[test]
        fn a_plain_number_is_itself(number: u64) {
            proptest::prop_assert_eq!(read(&number.to_string()), Some(number));
        }
    }
}
