//! Permissions: do the ranges granted hold the range asked for?
//!
//! The answer is counted out over every key of up to three bytes of a three-letter alphabet. That
//! alphabet holds both ends of what a byte can be, so that neighbours (`a` and `a\0`), open ends and
//! inverted ranges all occur. Bounds are drawn from the same keys; a range that holds no key at all
//! is left to the unit tests, since counting says nothing of it.

use bytes::Bytes;
use store::command::KeyRange;
use store::machine::auth::spans::{Spans, cover};

use crate::Random;

const LETTERS: [u8; 3] = [0, b'a', 0xff];

/// Every key that is looked at: one to four letters, one more than a bound has, so that between two
/// bounds there is always a key if there can be one.
fn keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..4 {
        let to = keys.len();
        for at in from..to {
            for letter in LETTERS {
                keys.push([&keys[at][..], &[letter]].concat());
            }
        }
        from = to;
    }
    keys.remove(0);
    keys
}

fn bound(random: &mut Random) -> Bytes {
    let length = 1 + random.below(3);
    (0..length).map(|_| LETTERS[random.below(LETTERS.len())]).collect::<Vec<_>>().into()
}

fn range(random: &mut Random) -> KeyRange {
    match random.below(4) {
        0 => KeyRange::Key(bound(random)),
        1 => KeyRange::From(bound(random)),
        _ => KeyRange::Span(bound(random), bound(random)),
    }
}

fn holds(range: &KeyRange, key: &[u8]) -> bool {
    match range {
        KeyRange::Key(only) => key == only,
        KeyRange::Span(start, end) => key >= &start[..] && key < &end[..],
        KeyRange::From(start) => key >= &start[..],
    }
}

/// Some grants in some roles, and some questions.
pub fn seed(seed: u64) {
    let mut random = Random::new(seed);
    let grants: Vec<Vec<KeyRange>> = (0..random.below(4))
        .map(|_| (0..random.below(4)).map(|_| range(&mut random)).collect())
        .collect();
    let roles: Vec<Spans> = grants.iter().map(|ranges| ranges.iter().collect()).collect();
    let keys = keys();
    let granted = |key: &[u8]| grants.iter().flatten().any(|range| holds(range, key));
    for key in &keys {
        let told = roles.iter().any(|role| role.contains(key));
        assert_eq!(told, granted(key), "seed {seed}: {key:?} of {grants:?}");
    }
    for _ in 0..8 {
        let asked = range(&mut random);
        let mut inside = keys.iter().filter(|key| holds(&asked, key)).peekable();
        if inside.peek().is_none() {
            continue;
        }
        // Beyond the last letter there are longer keys still: only an open end holds those.
        let open = matches!(&asked, KeyRange::From(_));
        let all = inside.all(|key| granted(key))
            && (!open || grants.iter().flatten().any(|range| matches!(range, KeyRange::From(_))));
        let told = cover(roles.iter(), &asked);
        assert_eq!(told, all, "seed {seed}: {asked:?} of {grants:?}");
    }
}
