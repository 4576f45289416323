//! The text that Prometheus reads: families of samples, each introduced once.

use std::fmt::{Display, Write as _};

use crate::histogram::Histogram;

/// How the numbers of a family are to be taken.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What one of a histogram's units is in the unit shown.
pub(super) const SECONDS_PER_NANO: f64 = 1e-9;

/// A page under construction.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(capacity: usize) -> Self {
        Self(String::with_capacity(capacity))
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// Introduces the samples that follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = kind.name();
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a String takes all");
    }

    /// One sample. The labels are in alphabetical order, as etcd writes them.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        writeln!(self.0, " {value}").expect("a String takes all");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, &[], value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help);
        self.sample(name, &[], value);
    }

    /// A family that is one histogram.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, unit: f64) {
        self.family(name, Kind::Histogram, help);
        self.distribution(name, &[], histogram, unit);
    }

    /// One histogram of a family.
    pub(super) fn distribution(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        histogram: &Histogram,
        unit: f64,
    ) {
        for (bound, count) in histogram.cumulative() {
            self.bucket(name, labels, &bound_text(bound, unit), count);
        }
        let count = histogram.count();
        self.bucket(name, labels, "+Inf", count);
        self.sum_and_count(name, labels, scaled(histogram.sum(), unit), count);
    }

    pub(super) fn bucket(&mut self, name: &str, labels: &[(&str, &str)], le: &str, count: u64) {
        write!(self.0, "{name}_bucket").expect("a String takes all");
        self.labels(labels, Some(le));
        writeln!(self.0, " {count}").expect("a String takes all");
    }

    pub(super) fn sum_and_count(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        sum: f64,
        count: u64,
    ) {
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count);
    }

    fn labels(&mut self, labels: &[(&str, &str)], le: Option<&str>) {
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut before = '{';
        for (name, value) in all {
            self.0.push(before);
            before = ',';
            write!(self.0, "{name}=\"").expect("a String takes all");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if before == ',' {
            self.0.push('}');
        }
    }
}

/// A whole number of small units in the unit shown.
fn scaled(value: u64, unit: f64) -> f64 {
    let value = value as f64;
    // Dividing by a whole number gives the double nearest to the decimal; multiplying does not.
    if unit < 1.0 { value / (1.0 / unit).round() } else { value * unit }
}

/// A bound as Go writes it: queries compare it as text.
fn bound_text(bound: u64, unit: f64) -> String {
    let value = scaled(bound, unit);
    if value < 1e6 {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("this form has an exponent");
    format!("{digits}e+{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        let texts = [100_000_u64, 1_000_000, 52_428_800_000].map(|at| bound_text(at, 1e-9));
        assert_eq!(texts, ["0.0001", "0.001", "52.4288"]);
        let texts = [1_u64, 819_200, 1_048_576, 8_388_608].map(|at| bound_text(at, 1.0));
        assert_eq!(texts, ["1", "819200", "1.048576e+06", "8.388608e+06"]);
    }

    #[test]
    fn a_histogram_is_written_whole() {
        let histogram = Histogram::doubling(1_000_000_000, 2);
        histogram.observe(1_500_000_000);
        histogram.observe(9_000_000_000);
        let mut page = Page::new(0);
        page.family("t", Kind::Histogram, "Help.");
        page.distribution("t", &[("a", "b\"\\\n")], &histogram, SECONDS_PER_NANO);
        let label = "a=\"b\\\"\\\\\\n\"";
        let expected = format!(
            "# HELP t Help.\n# TYPE t histogram\n\
             t_bucket{{{label},le=\"1\"}} 0\nt_bucket{{{label},le=\"2\"}} 1\n\
             t_bucket{{{label},le=\"+Inf\"}} 2\nt_sum{{{label}}} 10.5\nt_count{{{label}}} 2\n"
        );
        assert_eq!(page.into_text(), expected);
    }
}
