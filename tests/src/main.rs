//! `load`: measurements by command. Each prints figures and ratios; none asserts.
//!
//! ```sh
//! cargo run --release -p tests --bin load -- puts
//! cargo run --release -p tests --bin load -- cluster
//! ```

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Measures the store beside etcd, and the cluster by itself.
#[derive(Parser)]
#[command(name = "load")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts at 1, 64 and 512 clients: ours and etcd alternately, with ratios
    Puts {
        /// Alternations per number of clients
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// Seconds of each run
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Different keys
        #[arg(long, default_value_t = 100_000)]
        keys: u64,
    },
    /// `orchestrator up` to Ready, apply to Running, idle memory and CPU (needs root)
    Cluster {
        /// A Deployment of three replicas and its Service
        #[arg(long, default_value = "orchestrator/examples/hello.yaml")]
        manifest: PathBuf,
    },
}

fn main() {
    match Args::parse().command {
        Command::Puts { rounds, seconds, keys } => {
            tests::measure::compare_puts(rounds, Duration::from_secs(seconds), keys);
        }
        Command::Cluster { manifest } => tests::measure::cluster(&manifest),
    }
}
