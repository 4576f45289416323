//! Seed-driven fuzz targets on stable Rust.
//!
//! Each target is a module with two doors. `seed(u64)` builds an input from a number, usually a
//! valid one with damage done to it, and checks more than the absence of a panic: what must be
//! found, refused, or left alone. `bytes(&[u8])` takes anything at all, which is what libFuzzer
//! feeds it (`README.md` says how). A failing seed is the whole bug report.

pub mod config;
pub mod files;
pub mod gateway;
pub mod log_segment;
pub mod permissions;

/// How many seeds one run tries, from 0; `FUZZ_SEEDS` asks for more.
pub fn seeds(default: u64) -> u64 {
    std::env::var("FUZZ_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default)
}

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
}
