//! Back pointers between the versions of a key.
//!
//! ```text
//! depth   1   2   3   4   5   6   7   8
//! prev    ·◀──1◀──2◀──3◀──4◀──5◀──6◀──7
//! jump    ·   1   ·   3   4   3   ·   7
//! ```
//!
//! Depths are read as skew-binary numbers: a sum of terms 2^k − 1, taken greedily. A version jumps
//! over the smallest term of its depth, so from any version an ancestor at any distance n is
//! reached in O(log n) steps: jump while that does not go too far, else step back one.
//!
//! The jump follows from the predecessor's alone: either it is the predecessor itself, or the jump
//! of the predecessor's jump. Where compaction has removed that one, the predecessor does: a jump
//! is only ever a short cut to an ancestor.

use super::rows::{Links, Meta, Version};
use crate::{command::Revision, fault::Fault};

/// The links of the version that follows `prior`; `look_up` finds the links of an older version.
pub fn after(
    prior: Option<&Meta>,
    look_up: impl FnOnce(Version) -> Result<Option<Links>, Fault>,
) -> Result<Links, Fault> {
    let Some(prior) = prior else {
        return Ok(Links { depth: 1, prev: Version::NONE, jump: Version::NONE });
    };
    // A chain that outgrows its counter starts a new count; its jumps stay jumps to ancestors.
    let depth = prior.links.depth.checked_add(1).unwrap_or(1);
    let far = match smallest_term(depth) {
        1 => None,
        _ if prior.links.jump == Version::NONE => None,
        _ => look_up(prior.links.jump)?,
    };
    let jump = far.map_or(prior.at, |links| links.jump);
    Ok(Links { depth, prev: prior.at, jump })
}

/// Which of a version's links leads towards the newest version at or below `at`. The version
/// itself must be newer than that.
#[must_use]
pub fn towards(links: &Links, at: Revision) -> Version {
    if links.jump.main > at { links.jump } else { links.prev }
}

/// The smallest term of a number's skew-binary decomposition.
fn smallest_term(number: u32) -> u32 {
    let mut rest = u64::from(number);
    loop {
        let term = (1 << (rest + 1).ilog2()) - 1;
        if term == rest {
            return u32::try_from(term).expect("a term is no larger than its number");
        }
        rest -= term;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: i64) -> Vec<Meta> {
        let mut chain: Vec<Meta> = Vec::new();
        for main in 1..=length {
            let links = after(chain.last(), |at| {
                Ok(Some(chain[usize::try_from(at.main.0).unwrap() - 1].links))
            });
            let at = Version { main: Revision(main), sub: 0 };
            chain.push(Meta { at, links: links.unwrap(), ..Meta::default() });
        }
        chain
    }

    #[test]
    fn the_picture_is_true() {
        let jumps: Vec<i64> = chain(8).iter().map(|meta| meta.links.jump.main.0).collect();
        assert_eq!(jumps, [0, 1, 0, 3, 4, 3, 0, 7]);
    }

    #[test]
    fn every_ancestor_is_a_few_steps_away() {
        let chain = chain(1000);
        for from in (1..=1000).step_by(37) {
            for at in 1..=from {
                let (mut here, mut steps) = (from, 0);
                while here > at {
                    let meta = &chain[usize::try_from(here).unwrap() - 1];
                    here = towards(&meta.links, Revision(at)).main.0;
                    steps += 1;
                }
                assert_eq!(here, at);
                assert!(steps <= 30, "{steps} steps from {from} to {at}");
            }
        }
    }
}
