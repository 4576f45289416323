//! Measurements that are printed, never asserted: ours and the peer alternately in one run on the
//! same disk, so that ratios mean something where absolute rates differ from hour to hour.

#![expect(clippy::print_stdout, reason = "printing is what a measurement is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::{Outcome, Puts, puts};
use crate::process::eventually;
use crate::server::{Program, Server};
use crate::tools;

/// CPU time a process has used.
pub fn cpu(pid: nix::unistd::Pid) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold blanks; fields are counted behind it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel's unit for user space is 1/100 s on every architecture we build for.
    Duration::from_millis(ticks * 10)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
        * 1024
}

/// One row of a comparison.
struct Row {
    rate: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
    resident: u64,
}

impl Row {
    fn of(outcome: &Outcome, cpu: Duration, resident: u64) -> Self {
        Self {
            rate: outcome.rate(),
            p50: outcome.latency.value_at_quantile(0.5) as f64 / 1000.0,
            p99: outcome.latency.value_at_quantile(0.99) as f64 / 1000.0,
            cpu: cpu.as_secs_f64() * 1e6 / outcome.answered as f64,
            resident,
        }
    }

    fn print(&self, name: &str, clients: usize) {
        let Self { rate, p50, p99, cpu, resident } = self;
        let mib = resident / (1 << 20);
        println!("{name:<10} {clients:>5} {rate:>10.0} {p50:>9.2} {p99:>9.2} {cpu:>9.1} {mib:>7}");
    }
}

/// Puts at 1, 64 and 512 clients, ours beside etcd's.
///
/// # Panics
/// When etcd is missing or a server fails.
pub fn compare_puts(rounds: usize, time: Duration, keys: u64) {
    let peer = tools::theirs("etcd-3.7").unwrap_or_else(|| tools::required("etcd-3.4"));
    println!(
        "{:<10} {:>5} {:>10} {:>9} {:>9} {:>9} {:>7}",
        "server", "clnts", "puts/s", "p50 ms", "p99 ms", "cpu us", "MiB"
    );
    for (clients, connections) in [(1, 1), (64, 8), (512, 32)] {
        let load = Puts { clients, connections, keys, value_size: 256, time };
        let mut rows = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (n, program) in [Program::Ours, Program::Peer(peer.clone())].into_iter().enumerate()
            {
                let row = measure(program, load);
                row.print(["ours", "etcd"][n], clients);
                rows[n].push(row);
            }
        }
        let mean = |n: usize, field: fn(&Row) -> f64| {
            rows[n].iter().map(field).sum::<f64>() / rows[n].len() as f64
        };
        let ratio = |field: fn(&Row) -> f64| mean(0, field) / mean(1, field);
        println!(
            "ours/etcd  {clients:>5} rate {:.2}x  p50 {:.2}x  p99 {:.2}x  cpu per put {:.2}x  memory {:.2}x\n",
            ratio(|row| row.rate),
            ratio(|row| row.p50),
            ratio(|row| row.p99),
            ratio(|row| row.cpu),
            ratio(|row| row.resident as f64)
        );
    }
}

fn measure(program: Program, load: Puts) -> Row {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program, &dir.path().join("data"), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let warm = Puts { time: Duration::from_millis(500), ..load };
    runtime.block_on(puts(&server.url(), warm));
    let before = cpu(server.process.pid());
    let outcome = runtime.block_on(puts(&server.url(), load));
    Row::of(&outcome, cpu(server.process.pid()) - before, resident(server.process.pid()))
}

/// `up` to Ready, apply to Running, idle memory and CPU, size of the binary.
///
/// # Panics
/// When the cluster fails.
pub fn cluster(manifest: &Path) {
    let begin = Instant::now();
    let mut cluster = Cluster::up("measure");
    println!("up to node Ready, first start   {:>8.0} ms", ms(begin));
    cluster.process.stop();
    let begin = Instant::now();
    cluster.up_again();
    println!("up to node Ready, warm          {:>8.0} ms", ms(begin));

    let (mut times, mut alone) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let begin = Instant::now();
        cluster.kubectl(&format!("run one-{n} --image=testbox:v1 --restart=Never"));
        await_running(&cluster, &format!("pod one-{n}"));
        times.push(ms(begin));
        // The same two commands where there is nothing to wait for.
        let begin = Instant::now();
        cluster.kubectl(&format!("run idle-{n} --image=testbox:v1 --dry-run=server"));
        await_running(&cluster, &format!("pod one-{n}"));
        alone.push(ms(begin));
        cluster.kubectl(&format!("delete pod one-{n} --grace-period=0 --force"));
    }
    times.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    println!("run and wait until Running      {:>8.0} ms p50, {:.0} ms max", times[10], times[19]);
    println!("  of it kubectl itself, twice   {:>8.0} ms p50", alone[10]);

    let text = std::fs::read_to_string(manifest).expect("the manifest is readable");
    let file = cluster.dir().join("many.yaml");
    std::fs::write(&file, text.replace("replicas: 3", "replicas: 20"))
        .expect("a file can be written");
    let begin = Instant::now();
    cluster.kubectl(&format!("apply -f {}", file.display()));
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    println!("20 pods at once, apply to ready {:>8.0} ms", ms(begin));

    cluster.kubectl(&format!("delete -f {}", file.display()));
    eventually("the pods are gone", || cluster.items("pods").is_empty().then_some(()));
    std::thread::sleep(Duration::from_secs(5));
    let pid = cluster.process.pid();
    let before = cpu(pid);
    std::thread::sleep(Duration::from_secs(20));
    let used = (cpu(pid) - before).as_secs_f64() / 20.0 * 100.0;
    println!("idle: resident {} MiB, {used:.2} % of a core", resident(pid) >> 20);
    for name in ["orchestrator", "store"] {
        let size = std::fs::metadata(tools::ours(name)).map_or(0, |file| file.len());
        println!("{name} binary {:.1} MB", size as f64 / 1e6);
    }
    cluster.purge();
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

fn await_running(cluster: &Cluster, pod: &str) {
    let mut wait = cluster.kubectl_command(&format!("wait {pod} --timeout=30s"));
    wait.arg("--for=jsonpath={.status.phase}=Running");
    crate::world::run(&mut wait);
}
