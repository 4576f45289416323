//! How the health pages were answered.

use std::sync::atomic::{AtomicU64, Ordering};

use super::page::{Kind, Page};

/// A named check of `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    SerializableRead,
    LinearizableRead,
    DataCorruption,
    NonLearner,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::DataCorruption => "data_corruption",
            Self::NonLearner => "non_learner",
        }
    }
}

/// A list of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Livez,
    Readyz,
}

impl List {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }

    /// In the order they are run.
    pub(crate) fn checks(self) -> &'static [Check] {
        match self {
            Self::Livez => &[Check::SerializableRead],
            Self::Readyz => &[
                Check::DataCorruption,
                Check::SerializableRead,
                Check::LinearizableRead,
                Check::NonLearner,
            ],
        }
    }
}

/// One check of one list.
#[derive(Debug)]
struct Checked {
    list: List,
    check: Check,
    passed: AtomicU64,
    failed: AtomicU64,
    /// Whether it passed when it was run last.
    well: AtomicU64,
}

/// Counts since the start.
#[derive(Debug)]
pub(super) struct HealthCounts {
    well: AtomicU64,
    sick: AtomicU64,
    checks: Box<[Checked]>,
}

impl HealthCounts {
    pub(super) fn new() -> Self {
        let count = || AtomicU64::new(0);
        let of = |list: List| list.checks().iter().map(move |check| (list, *check));
        let all = of(List::Livez).chain(of(List::Readyz));
        let checks = all.map(|(list, check)| Checked {
            list,
            check,
            passed: count(),
            failed: count(),
            well: count(),
        });
        Self { well: count(), sick: count(), checks: checks.collect() }
    }

    pub(super) fn health(&self, well: bool) {
        let count = if well { &self.well } else { &self.sick };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn checked(&self, list: List, check: Check, passed: bool) {
        let found = self.checks.iter().find(|row| row.list == list && row.check == check);
        let Some(row) = found else { return };
        let count = if passed { &row.passed } else { &row.failed };
        count.fetch_add(1, Ordering::Relaxed);
        row.well.store(passed.into(), Ordering::Relaxed);
    }

    pub(super) fn render(&self, page: &mut Page) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let name = "etcd_server_health_success";
        page.counter(name, "Times /health said that all is well.", of(&self.well));
        let name = "etcd_server_health_failures";
        page.counter(name, "Times /health said that something is wrong.", of(&self.sick));
        let name = "etcd_server_healthcheck";
        page.family(name, Kind::Gauge, "1 if the check passed when it was run last.");
        for row in &self.checks {
            if of(&row.passed) + of(&row.failed) > 0 {
                let labels = [("name", row.check.name()), ("type", row.list.name())];
                page.sample(name, &labels, of(&row.well));
            }
        }
        let name = "etcd_server_healthchecks_total";
        page.family(name, Kind::Counter, "Checks of /livez and /readyz by how they came out.");
        for row in &self.checks {
            for (count, status) in [(&row.failed, "error"), (&row.passed, "success")] {
                if of(count) > 0 {
                    let labels =
                        [("name", row.check.name()), ("status", status), ("type", row.list.name())];
                    page.sample(name, &labels, of(count));
                }
            }
        }
    }
}
