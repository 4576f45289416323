//! `load`: measurements by command. Each prints figures and ratios; none asserts.
//!
//! ```sh
//! cargo build --release -p store -p tests --bins
//! target/release/load all --rounds 3 --seconds 5      # the table of store/docs/performance.md
//! target/release/load run put --endpoint http://127.0.0.1:2379 --clients 64 --connections 8
//! ```

#![expect(clippy::print_stdout, reason = "printing is what a measurement is for")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tests::load;
use tests::load::contest::Who;
use tests::load::disturb::Disturbance;
use tests::load::endpoint::{Endpoint, TlsFiles};
use tests::load::job::{Job, Kind, Setting, Target};
use tests::load::meter::Subject;
use tests::load::table;
use tests::load::work::Ask;

/// The client and the limit are part of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Puts load on servers that speak etcd's API, and compares them
///
/// Servers that `load` starts itself run on one disk and take turns: while one is measured the
/// others are stopped by signal. CPU is that of the server, in user space and kernel, for each
/// request (or row, or event), memory that of its process; bytes written are those of the whole
/// disk. The client is a light one on one thread, since it shares the machine with the server.
#[derive(Parser)]
#[command(name = "load")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every job on ours, etcd and the limit alternately; prints Markdown
    All(All),
    /// One job, on any endpoint or on servers of its own
    Run(Box<Run>),
    /// Names of the jobs that `all` runs
    List,
    /// Puts at 1, 64 and 512 clients on empty stores: ours and etcd alternately
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
    /// The limit: a gRPC echo server with one group fsync, until killed
    Limit {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:2379")]
        listen: SocketAddr,
        /// Where its log file goes
        #[arg(long)]
        dir: PathBuf,
        /// Bytes of each value in the rows that it answers
        #[arg(long, default_value_t = 256)]
        value_size: usize,
    },
    /// `orchestrator up` to Ready, apply to Running, idle memory and CPU (needs root)
    Cluster {
        /// A Deployment of three replicas and its Service
        #[arg(long, default_value = "orchestrator/examples/hello.yaml")]
        manifest: PathBuf,
    },
}

#[derive(clap::Args)]
struct Comparison {
    /// Runs of each job on each server; medians are printed
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Keys, filled first where servers are started here
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Who is compared
    #[arg(long, value_delimiter = ',', default_value = "ours,etcd,limit")]
    against: Vec<Who>,
    /// A folder on the disk to use; a temporary one by default. With `--endpoint`, one on the disk
    /// whose writes are counted
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(clap::Args)]
struct All {
    #[command(flatten)]
    comparison: Comparison,
    /// Only jobs whose name holds this; may be given several times. The key space is always filled
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Write the key space, a hundred keys to a transaction
    Fill,
    /// Puts at random keys
    Put,
    /// Transactions of one compare and one put
    Txn,
    /// Linearizable reads of one key
    Get,
    /// Reads of one key from the member's own state
    GetSerializable,
    /// Ranges of `--rows` anywhere; with `--hot`, always the same ten
    Range,
    /// `--rows` of all that follow, as lists are read page by page
    Page,
    /// `--rows` as a stream of chunks
    RangeStream,
    /// Deletes of keys that exist, filled before
    Delete,
    /// Four gets to a put
    Mixed,
    /// `--watchers` that all get `--puts` events, which go to `--watch-keys`
    Watch,
    /// From a put to its event, one after the other
    WatchLatency,
    /// New leases
    LeaseGrant,
    /// A lease for each client, refreshed in a loop
    LeaseKeepalive,
    /// Lists in pages, guarded updates and watches at once
    Kubernetes,
    /// Puts around nothing, to see what the server's own work does to them
    Pause,
    /// Puts around a snapshot
    PauseSnapshot,
    /// Puts around a physical compaction of all history
    PauseCompaction,
    /// Puts around a defragmentation
    PauseDefragment,
    /// From kill -9 after rest to the first answer; on servers of its own only
    Boot,
    /// From kill -9 under puts to the first answer; on servers of its own only
    BootLoaded,
}

#[derive(clap::Args)]
struct Run {
    /// The job
    what: What,
    /// Whom to drive; without it, servers are started and compared
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    tls: TlsFiles,
    /// The server's process, for its CPU and memory
    #[arg(long, requires = "endpoint")]
    pid: Option<i32>,
    /// Requests in flight; of an open loop, the most
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections they share
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// An open loop: requests per second, due whether or not earlier ones are answered
    #[arg(long)]
    rate: Option<u64>,
    /// Rows of a range, page or stream
    #[arg(long, default_value_t = 1000)]
    rows: u64,
    /// Ranges among the same ten only
    #[arg(long)]
    hot: bool,
    /// Watchers, each with a call of its own
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Puts that all watchers see
    #[arg(long, default_value_t = 10_000)]
    puts: u64,
    /// Different keys that those puts go to
    #[arg(long, default_value_t = 1)]
    watch_keys: u64,
    #[command(flatten)]
    comparison: Comparison,
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::All(all) => {
            let wanted = |job: &Job| {
                let named = all.only.iter().any(|text| job.name.contains(text.as_str()));
                all.only.is_empty() || named || job.kind == Kind::Fill
            };
            let jobs: Vec<Job> = load::list::all().into_iter().filter(wanted).collect();
            compare(&jobs, &all.comparison);
        }
        Command::Run(run) => return one(&run),
        Command::List => load::list::all().iter().for_each(|job| println!("{}", job.name)),
        Command::Puts { rounds, seconds, keys } => {
            tests::measure::compare_puts(rounds, Duration::from_secs(seconds), keys);
        }
        Command::Limit { listen, dir, value_size } => {
            return done(load::limit::serve(listen, &dir, value_size));
        }
        Command::Cluster { manifest } => tests::measure::cluster(&manifest),
    }
    ExitCode::SUCCESS
}

fn done(outcome: Result<(), impl std::fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Comparison {
    fn setting(&self) -> Setting {
        Setting {
            keys: self.keys,
            value_size: self.value_size,
            time: Duration::from_secs(self.seconds),
        }
    }
}

fn compare(jobs: &[Job], comparison: &Comparison) {
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let dir = comparison.dir.as_deref().unwrap_or_else(|| temporary.path());
    let Comparison { rounds, seconds, keys, value_size, ref against, .. } = *comparison;
    let table = load::compare(jobs, against, rounds, comparison.setting(), dir);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{cores} cores{}, client on the same; medians of {rounds} alternating runs of {seconds} s; \
         {keys} keys × {value_size} B filled first.\n",
        kernel()
    );
    println!("{}\n{}", table.figures(), table.ratios());
}

/// The processor and the kernel, as far as the system tells.
fn kernel() -> String {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read(Path::new("/proc/cpuinfo"));
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let release = read(Path::new("/proc/sys/kernel/osrelease"));
    format!(" ({}, Linux {})", model.trim_start_matches(['\t', ' ', ':']), release.trim())
}

fn one(run: &Run) -> ExitCode {
    let job = Job {
        name: run.what.to_possible_value().expect("none is skipped").get_name().to_owned(),
        kind: kind(run),
        clients: run.clients.max(1),
        connections: run.connections.max(1),
        rate: run.rate,
    };
    let Some(url) = &run.endpoint else {
        let mut jobs = Vec::new();
        if job.kind != Kind::Fill {
            let name = "fill".to_owned();
            jobs.push(Job { name, kind: Kind::Fill, clients: 8, connections: 4, rate: None });
        }
        jobs.push(job);
        compare(&jobs, &run.comparison);
        return ExitCode::SUCCESS;
    };
    let endpoint = match Endpoint::new(url, &run.tls) {
        Ok(endpoint) => endpoint,
        Err(failure) => return done(Err(failure)),
    };
    let pid = run.pid.map(nix::unistd::Pid::from_raw);
    let subject = Subject { pid, dir: run.comparison.dir.clone() };
    let target = Target { endpoint, subject };
    match load::job::block_on(load::job::run(&job, &target, run.comparison.setting())) {
        Err(failure) => done(Err(failure)),
        Ok(rows) => {
            print!("{}", table::HEAD);
            for (suffix, figures) in rows {
                println!("{}", table::line(&format!("{} {suffix}", job.name), url, Ok(&figures)));
            }
            ExitCode::SUCCESS
        }
    }
}

fn kind(run: &Run) -> Kind {
    let rows = run.rows.max(1);
    match run.what {
        What::Fill => Kind::Fill,
        What::Put => Kind::Keys(Ask::Put),
        What::Txn => Kind::Keys(Ask::Txn),
        What::Get => Kind::Keys(Ask::Get { serializable: false }),
        What::GetSerializable => Kind::Keys(Ask::Get { serializable: true }),
        What::Range => Kind::Keys(Ask::Range { rows, hot: run.hot }),
        What::Page => Kind::Keys(Ask::Page { rows }),
        What::RangeStream => Kind::Keys(Ask::RangeStream { rows }),
        What::Delete => Kind::Keys(Ask::Delete),
        What::Mixed => Kind::Keys(Ask::Mixed),
        What::Watch => {
            Kind::Fan { watchers: run.watchers.max(1), puts: run.puts, keys: run.watch_keys.max(1) }
        }
        What::WatchLatency => Kind::WatchLatency,
        What::LeaseGrant => Kind::Grant,
        What::LeaseKeepalive => Kind::KeepAlive,
        What::Kubernetes => Kind::Kubernetes,
        What::Pause => Kind::Disturb(Disturbance::None),
        What::PauseSnapshot => Kind::Disturb(Disturbance::Snapshot),
        What::PauseCompaction => Kind::Disturb(Disturbance::Compaction),
        What::PauseDefragment => Kind::Disturb(Disturbance::Defragment),
        What::Boot => Kind::Boot { loaded: false },
        What::BootLoaded => Kind::Boot { loaded: true },
    }
}
