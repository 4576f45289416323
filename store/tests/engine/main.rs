//! The machine and the engine together, through their public face.
//!
//! - `scripts`: one golden script for each behaviour, to be read as prose.
//! - `random`: random commands against a naive model, with checkpoints, compactions, reopenings and
//!   power cuts in between.
//! - `readers`: views taken by other threads while all of that goes on.
//! - `crash`: log and engine together on a disk that loses power, breaks and fills up.
//! - `faults`: what happens when the disk fails, is locked, or holds something else.

mod crash;
mod disk;
mod faults;
mod model;
mod random;
mod readers;
mod scripts;
mod world;
