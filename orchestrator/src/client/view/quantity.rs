//! Amounts of resources as integers.
//!
//! Kubernetes writes amounts as decimal numbers with a suffix: `250m`, `1.5`, `64Mi`, `1e3`. What is
//! decided by them is decided in whole units (bytes, pods) or thousandths (cores), rounded up as
//! Kubernetes rounds them. Validation refuses what is no amount before it is stored; here such a
//! text counts as nothing.

/// Whole units, rounded up.
pub fn whole(text: &str) -> i64 {
    scaled(text, 0).unwrap_or(0)
}

/// Thousandths, rounded up.
pub fn milli(text: &str) -> i64 {
    scaled(text, 3).unwrap_or(0)
}

/// Reads an amount as a number of units of 10^-`digits`. An amount beyond an `i64` is its end.
fn scaled(text: &str, digits: i32) -> Option<i64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (binary, mut decimal) = suffix_of(suffix)?;
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // The value is mantissa × 2^binary × 10^decimal.
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        mantissa = mantissa.checked_mul(10)?.checked_add(digit)?;
    }
    decimal += digits - i32::try_from(fraction.len()).ok()?;
    let mut value = mantissa.checked_mul(1_i128.checked_shl(binary)?)?;
    let power = 10_i128.checked_pow(decimal.unsigned_abs());
    value = match (decimal >= 0, power) {
        (true, Some(power)) => value.saturating_mul(power),
        (true, None) => i128::MAX,
        (false, Some(power)) => value.div_euclid(power) + i128::from(value.rem_euclid(power) > 0),
        (false, None) => i128::from(value > 0),
    };
    let most = i128::from(i64::MAX);
    i64::try_from(sign * value.min(most)).ok()
}

/// A suffix as powers of two and of ten.
fn suffix_of(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => (0, exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_up_in_their_unit() {
        let cases = [
            ("1", 1, 1000),
            ("250m", 1, 250),
            ("0.1", 1, 100),
            ("1.5", 2, 1500),
            ("100u", 1, 1),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("1e3", 1000, 1_000_000),
            ("2E", 2_000_000_000_000_000_000, i64::MAX),
            (".5", 1, 500),
            ("0", 0, 0),
            ("many", 0, 0),
            ("", 0, 0),
        ];
        for (text, units, thousandths) in cases {
            assert_eq!((whole(text), milli(text)), (units, thousandths), "{text}");
        }
    }
}
