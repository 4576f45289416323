//! The Service proxy: virtual addresses become pod addresses, in the kernel.
//!
//! `plan` says which map elements the Services need, `ruleset` and `message` write them as nf_tables
//! messages, `socket` commits them in one transaction, `routes` leads the Service range to the rules.

mod message;
mod plan;
mod routes;
mod ruleset;
mod socket;

pub use socket::Error as KernelError;

#[cfg(test)]
mod tests;
