//! `orchestrator up`: a whole cluster in one process.

pub mod config;
pub mod data_dir;
pub mod host;
pub mod progress;
pub mod record;
