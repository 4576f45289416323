//! The machine and the engine together, through their public face.
//!
//! - `scripts`: one golden script for each behaviour, to be read as prose.
//! - `random`: random commands by anybody against a naive model, with checkpoints, compactions,
//!   reopenings and power cuts in between.
//! - `compaction`: a history, cut at each of its revisions.
//! - `readers`: views taken by other threads while all of that goes on.
//! - `crash`: log and engine together on a disk that loses power, breaks and fills up.
//! - `faults`: what happens when the disk fails, is locked, or holds something else.
//!
//! `random` and `crash` try the same seeds every time; `ENGINE_SEED=n` asks for others.

mod compaction;
mod crash;
mod disk;
mod faults;
mod model;
mod random;
mod readers;
mod scripts;
mod world;

/// What is added to every seed.
fn other_seeds() -> u64 {
    std::env::var("ENGINE_SEED").map_or(0, |seed| seed.parse().expect("ENGINE_SEED is a number"))
}
