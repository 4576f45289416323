//! Measurements that are printed, never asserted: ours and the peer alternately in one run on the
//! same disk, so that ratios mean something where absolute rates differ from hour to hour.

#![expect(clippy::print_stdout, reason = "printing is what a measurement is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load;
use crate::load::contest::Who;
use crate::load::job::{Job, Kind, Setting};
use crate::load::meter::{cpu, resident};
use crate::load::work::Ask;
use crate::process::eventually;
use crate::tools;

/// Puts at 1, 64 and 512 clients, ours beside etcd's, on stores that are empty at first.
///
/// # Panics
/// When etcd is missing or a server fails.
pub fn compare_puts(rounds: usize, time: Duration, keys: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let is_put = |job: &Job| matches!(job.kind, Kind::Keys(Ask::Put)) && job.rate.is_none();
    let jobs: Vec<Job> =
        load::list::all().into_iter().filter(|job| is_put(job) && job.clients <= 512).collect();
    let setting = Setting { keys, value_size: 256, time };
    let table = load::compare(&jobs, &[Who::Ours, Who::Etcd], rounds, setting, dir.path());
    println!("{}\n{}", table.figures(), table.ratios());
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
