//! Quantities: `100m`, `1.5Gi`, `2e3`. Exact, in thousandths, as far as 128 bits go.

/// An amount in thousandths of the base unit: `100m` CPU is 100, `1Ki` of memory is 1 024 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    milli: i128,
}

const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
/// Powers of ten by suffix, above thousandths.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
    ("", 0),
];
/// Digits accepted on either side of the point: enough for every real amount, far from overflow.
const DIGITS_MAX: usize = 18;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { milli: 0 };

    /// An amount in thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { milli: milli.into() }
    }

    /// A whole amount.
    pub fn from_units(units: i64) -> Self {
        Self { milli: i128::from(units) * 1000 }
    }

    /// The amount in thousandths; at most `i64::MAX`.
    pub fn milli(self) -> i64 {
        saturate(self.milli)
    }

    /// The amount in whole units, rounded up as Kubernetes does; at most `i64::MAX`.
    pub fn units(self) -> i64 {
        saturate(self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) > 0))
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { milli: self.milli.saturating_add(other.milli) }
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.milli < 0
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.milli == 0
    }

    /// Reads the text form. `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty())
            || part.contains('.')
            || whole.len() > DIGITS_MAX
            || part.len() > DIGITS_MAX
        {
            return None;
        }
        let scale = u32::try_from(part.len()).expect("at most 18 digits");
        let digits: i128 = format!("{whole}{part}").parse().ok()?;
        let milli = scaled(digits, scale, suffix)?;
        Some(Self { milli: if negative { -milli } else { milli } })
    }

    /// Reads a JSON value: text, or a plain number.
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::String(text) => Self::parse(text),
            serde_json::Value::Number(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }
}

fn saturate(value: i128) -> i64 {
    let clamped = value.clamp(i64::MIN.into(), i64::MAX.into());
    i64::try_from(clamped).expect("clamped to the range just above")
}

/// `digits · 10^-scale · suffix` in thousandths, rounded up.
fn scaled(digits: i128, scale: u32, suffix: &str) -> Option<i128> {
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        let milli = digits.checked_mul(1000)?.checked_mul(1i128 << shift)?;
        return Some(divide_up(milli, 10i128.pow(scale)));
    }
    let power = match DECIMAL.iter().find(|(name, _)| *name == suffix) {
        Some((_, power)) => *power,
        None => exponent(suffix)?,
    };
    let power = power + 3 - i32::try_from(scale).ok()?;
    let magnitude = 10i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 { digits.checked_mul(magnitude) } else { Some(divide_up(digits, magnitude)) }
}

fn exponent(suffix: &str) -> Option<i32> {
    let power = suffix.strip_prefix(['e', 'E'])?;
    power.parse().ok().filter(|power| (-18..=18).contains(power))
}

fn divide_up(value: i128, by: i128) -> i128 {
    value / by + i128::from(value % by > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            (".5", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1u", 1),
            ("-1", -1000),
            ("128974848", 128_974_848_000),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.milli), Some(milli), "{text}");
        }
        for bad in ["", "abc", "1.2.3", "1 Gi", "1gi", "--1", ".", "1e", "1e99"] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn whole_units_round_up() {
        assert_eq!(Quantity::parse("1500m").map(Quantity::units), Some(2));
        assert_eq!(Quantity::parse("-1500m").map(Quantity::units), Some(-1));
        assert_eq!(Quantity::parse("900Ei").map(Quantity::units), Some(i64::MAX));
    }
}
