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
//!
//! Looking up the predecessor's jump may cost a read from the disk with the write of a key, and most
//! keys are written a few times only. So the first versions of a key do without jumps: a walk among
//! them takes a step for each, [`PLAIN_DEPTH`] at most, and the picture holds from there on.

use super::rows::{Links, Meta, Version};
use crate::{command::Revision, fault::Fault};

/// Versions from the start of a chain that only know their predecessor.
pub const PLAIN_DEPTH: u32 = 16;

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
        _ if depth <= PLAIN_DEPTH => None,
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
        // A chain whose first versions are long past, at a depth that begins no term.
        let chain = chain(2_100);
        let depth_of = |main: i64| chain[usize::try_from(main - 1).unwrap()].links.depth;
        let jumps: Vec<i64> = chain[2_046..2_054].iter().map(|m| m.links.jump.main.0).collect();
        assert_eq!(depth_of(2_047), 2_047);
        assert_eq!(jumps[1..], [2_047, 2_048, 2_047, 2_050, 2_051, 2_050, 2_047]);
    }

    #[test]
    fn young_keys_cost_no_look_up() {
        let mut last = None;
        for main in 1..=i64::from(PLAIN_DEPTH) {
            let links = after(last.as_ref(), |_| panic!("looked up")).unwrap();
            let at = Version { main: Revision(main), sub: 0 };
            last = Some(Meta { at, links, ..Meta::default() });
        }
    }

    #[test]
    fn every_ancestor_is_a_few_steps_away() {
        let chain = chain(1000);
        for from in (1..=1000).step_by(37) {
            for at in 1..=from {
                let (mut here, mut steps) = (from, 0_u32);
                while here > at {
                    let meta = &chain[usize::try_from(here).unwrap() - 1];
                    here = towards(&meta.links, Revision(at)).main.0;
                    steps += 1;
                }
                assert_eq!(here, at);
                assert!(steps <= 30 + PLAIN_DEPTH, "{steps} steps from {from} to {at}");
            }
        }
    }
}
