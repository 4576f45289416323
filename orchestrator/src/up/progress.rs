//! What the person at the terminal sees: one short line per step, with its time.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Prints steps. Output that nobody reads any more (a closed pipe) is no reason to stop a cluster, so
/// errors of writing are dropped.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    step: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { started: now, step: now }
    }

    /// A step is done; the time is that since the last one.
    pub(super) fn done(&mut self, step: &str, detail: &str) {
        let took = self.step.elapsed();
        self.step = Instant::now();
        self.say(format!("  {step:<14}{:>7}  {detail}", short(took)).trim_end());
    }

    /// A line after which the clock of the next step begins anew: something was waited for.
    pub(super) fn begin(&mut self, text: &str) {
        self.say(text);
        self.step = Instant::now();
    }

    /// Something worth knowing that stops nothing.
    pub(super) fn warn(&self, text: &str) {
        self.say(&format!("  warning: {text}"));
    }

    /// A line as it is.
    pub(super) fn say(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }

    /// Time since the start.
    pub(super) fn total(&self) -> String {
        short(self.started.elapsed())
    }
}

/// A duration for people: `812 ms`, `1.3 s`.
fn short(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(short(Duration::from_micros(400)), "0 ms");
        assert_eq!(short(Duration::from_millis(999)), "999 ms");
        assert_eq!(short(Duration::from_millis(1250)), "1.2 s");
    }
}
