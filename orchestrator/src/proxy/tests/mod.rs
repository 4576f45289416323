//! The plan against scripts, and its elements against real packets.

mod script;
mod traffic;
