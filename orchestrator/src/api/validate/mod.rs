//! Validation: what an object must be beyond its schema.

pub mod names;
