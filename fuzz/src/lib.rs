//! Seed-driven fuzz targets on stable Rust.
//!
//! Each target is a function of a number: it builds an input from it, usually a valid one with
//! damage done to it, and checks more than the absence of a panic: what must be found, refused, or
//! left alone. Some have a second door, `bytes(&[u8])`, which takes anything at all and is what
//! libFuzzer feeds (`README.md` says how). [`run`] tries seeds for as long as it is told to; a
//! failing seed is the whole bug report.

pub mod auth;
pub mod codec;
pub mod config;
mod draw;
pub mod files;
pub mod gateway;
pub mod history;
pub mod leases;
pub mod log_segment;
pub mod permissions;
mod rows;
pub mod run;
pub mod txn;

/// The naive model of the store's own tests: one truth for both.
#[expect(dead_code, reason = "those look at more of it")]
#[path = "../../store/tests/engine/model/mod.rs"]
mod model;

use run::Target;

/// Everything there is to run.
pub const TARGETS: [Target; 13] = [
    Target { name: "auth", seed: auth::seed },
    Target { name: "backup", seed: files::seed_backup },
    Target { name: "codec", seed: codec::seed },
    Target { name: "config", seed: config::seed },
    Target { name: "config_file", seed: config::seed_file },
    Target { name: "database", seed: files::seed_database },
    Target { name: "gateway", seed: gateway::seed },
    Target { name: "history", seed: history::seed },
    Target { name: "leases", seed: leases::seed },
    Target { name: "log", seed: log_segment::seed },
    Target { name: "log_bytes", seed: log_segment::seed_bytes },
    Target { name: "permissions", seed: permissions::seed },
    Target { name: "txn", seed: txn::seed },
];

/// xorshift: the same numbers from the same seed, for ever.
pub struct Random(u64);

impl Random {
    /// A generator for one seed; neighbouring seeds do not resemble each other.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        usize::try_from(number % bound.max(1) as u64).expect("below a usize")
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A small number of either sign's type.
    pub fn small(&mut self, bound: usize) -> i64 {
        i64::try_from(self.below(bound)).expect("small")
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }
}
