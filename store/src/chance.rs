//! The one source of chance.
//!
//! Whatever is random in a member is drawn here: ids of leases that ask for one, the spread of
//! progress messages, what tells a new segment of the log from an old one. The seed comes from the
//! system in production; whoever knows it can draw the same again.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// A generator that all parts of a member share.
pub(crate) struct Chance(Mutex<StdRng>);

impl Chance {
    /// Seeded by the system, with as much as the generator takes: tokens and salts are drawn here,
    /// and nobody may guess them from the numbers that everybody sees.
    pub(crate) fn from_system() -> Self {
        Self(Mutex::new(rand::make_rng()))
    }

    /// Draws what every other with this seed draws.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    fn draw(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a lease: positive, and not zero.
    pub(crate) fn lease_id(&self) -> i64 {
        self.draw().random_range(1..=i64::MAX)
    }

    /// At least 0, below 1.
    pub(crate) fn fraction(&self) -> f64 {
        self.draw().random()
    }

    /// Bytes that nobody can guess.
    pub(crate) fn secret<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.draw().fill_bytes(&mut bytes);
        bytes
    }

    /// Any number.
    pub(crate) fn salt(&self) -> u32 {
        self.draw().next_u32()
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn equal_seeds_draw_equal_numbers_in_their_bounds() {
        let (one, other) = (Chance::seeded(7), Chance::seeded(7));
        for _ in 0..1000 {
            let id = one.lease_id();
            assert!(id > 0);
            assert_eq!(id, other.lease_id());
            assert!((0.0..1.0).contains(&one.fraction()));
            other.fraction();
        }
        assert_ne!(Chance::seeded(7).salt(), Chance::seeded(8).salt());
    }
}
