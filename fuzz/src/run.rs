//! Runs targets for a time, not for a count.
//!
//! ```text
//! deadline ◀── total seconds
//! worker 1   txn ▌ config ▌ files ▌ txn ▌ …      the target that has had least goes next,
//! worker 2   auth ▌ codec ▌ gateway ▌ auth ▌ …    for one slice of time
//! ```
//!
//! Slices keep the time of all targets equal and the end exact, however many targets there are and
//! however slow some of their seeds. Each run begins at a seed of its own, so that a night of runs
//! does not try one night's worth of the same inputs; a failure names its seed, and a run that
//! begins there fails at once. A seed that does not end is a failure too: nothing may take forever.
//!
//! Whatever fails is told from the panic hook, because a thread that owns state ends the process
//! instead of unwinding.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Something to be tried with numbers.
#[derive(Clone, Copy)]
pub struct Target {
    /// How it is asked for.
    pub name: &'static str,
    /// Builds an input from the number and judges what comes of it, by panicking.
    pub seed: fn(u64),
}

/// How long all targets together are run without being told otherwise: for those who work on them.
/// `tests/run` asks for minutes.
const SECONDS: u64 = 20;
/// How long a target runs before the next one has its turn.
const SLICE: Duration = Duration::from_millis(300);
/// How long one seed may take on a machine that is busy with other things too.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(50);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Wall time of all targets together.
    pub total: Duration,
    /// The seed that every target begins with.
    pub first: u64,
    /// Targets at a time.
    pub workers: usize,
    /// The longest that one seed may take.
    pub patience: Duration,
}

/// What became of one target.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Its name.
    pub name: &'static str,
    /// Seeds that were tried and passed.
    pub passed: u64,
    /// The time it has had.
    pub spent: Duration,
    /// The seed that failed.
    pub failed: Option<u64>,
    /// Since when it is at its present seed.
    at_work: Option<Instant>,
}

/// Everything that workers, hook and watchdog share.
struct Run {
    targets: Vec<Target>,
    plan: Plan,
    deadline: Instant,
    progress: Mutex<Vec<Progress>>,
}

impl Run {
    /// The progress of all targets. Nothing panics while it is held.
    fn progress(&self) -> MutexGuard<'_, Vec<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seed_of(&self, progress: &Progress) -> u64 {
        self.plan.first.wrapping_add(progress.passed)
    }

    /// Gives the target that has had the least time to the caller.
    fn take(&self) -> Option<usize> {
        let mut all = self.progress();
        let idle = all.iter_mut().enumerate();
        let idle = idle.filter(|(_, target)| target.at_work.is_none() && target.failed.is_none());
        let (nth, target) = idle.min_by_key(|(_, target)| target.spent)?;
        target.at_work = Some(Instant::now());
        Some(nth)
    }

    /// Tries seeds of one target for a slice; false when there is nothing left to take.
    fn slice(&self) -> bool {
        let Some(nth) = self.take() else { return false };
        let began = Instant::now();
        loop {
            let seed = self.seed_of(&self.progress()[nth]);
            let fine = panic::catch_unwind(|| (self.targets[nth].seed)(seed)).is_ok();
            let now = Instant::now();
            let mut all = self.progress();
            let target = &mut all[nth];
            if fine {
                target.passed += 1;
            } else {
                target.failed = Some(seed);
            }
            if !fine || now - began >= SLICE || now >= self.deadline {
                target.spent += now - began;
                target.at_work = None;
                return true;
            }
            target.at_work = Some(now);
        }
    }

    fn work(&self) {
        while Instant::now() < self.deadline && self.slice() {}
    }

    /// What is being tried at this moment.
    fn at_work(&self) -> String {
        let all = self.progress();
        let busy = all.iter().filter(|target| target.at_work.is_some());
        let busy: Vec<_> =
            busy.map(|target| format!("{} seed {}", target.name, self.seed_of(target))).collect();
        busy.join(", ")
    }

    /// The target that has been at one seed for too long.
    fn stuck(&self) -> Option<usize> {
        let patience = self.plan.patience;
        let long = |target: &Progress| target.at_work.is_some_and(|at| at.elapsed() > patience);
        self.progress().iter().position(long)
    }
}

/// Runs the targets; returns what became of each. A seed that does not end is left behind on its
/// thread and counts as failed.
#[must_use]
pub fn run(targets: &[Target], plan: Plan) -> Vec<Progress> {
    let progress = |target: &Target| Progress {
        name: target.name,
        passed: 0,
        spent: Duration::ZERO,
        failed: None,
        at_work: None,
    };
    let run = Arc::new(Run {
        targets: targets.to_vec(),
        plan,
        deadline: Instant::now() + plan.total,
        progress: Mutex::new(targets.iter().map(progress).collect()),
    });
    tell_seeds_of_panics(Arc::clone(&run));
    let worker = |_| {
        let run = Arc::clone(&run);
        thread::spawn(move || run.work())
    };
    let workers: Vec<_> = (0..plan.workers).map(worker).collect();
    while !workers.iter().all(thread::JoinHandle::is_finished) {
        thread::sleep(LOOK);
        if let Some(stuck) = run.stuck() {
            let mut all = run.progress().clone();
            all[stuck].failed = Some(run.seed_of(&all[stuck]));
            return all;
        }
    }
    run.progress().clone()
}

fn tell_seeds_of_panics(run: Arc<Run>) {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        eprintln!("fuzz: at work: {}", run.at_work());
    }));
}

/// A number from the environment.
///
/// # Panics
/// When it is none: a run that was asked for something else must not pass.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// A test program of its own: `cargo test -p fuzz -- NAME` runs the targets whose names hold `NAME`.
#[must_use]
pub fn main(targets: &[Target]) -> ExitCode {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let listed = std::env::args().any(|arg| arg == "--list");
    let is_wanted = |target: &Target| {
        let name = format!("fuzz::{}", target.name);
        !listed && (wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())))
    };
    let targets: Vec<_> = targets.iter().copied().filter(is_wanted).collect();
    if targets.is_empty() {
        return ExitCode::SUCCESS;
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let chance = RandomState::new().build_hasher().finish();
    let plan = Plan {
        total: Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS)),
        first: number("FUZZ_SEED").unwrap_or(chance),
        workers: cores.min(targets.len()),
        patience: PATIENCE,
    };
    eprintln!("fuzz: {} targets for {:?} from seed {}", targets.len(), plan.total, plan.first);
    tell(&run(&targets, plan))
}

fn tell(all: &[Progress]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for target in all {
        let Progress { name, passed, spent, failed, .. } = target;
        eprintln!("fuzz: {name:<14} {passed:>9} seeds in {:>5.1} s", spent.as_secs_f64());
        if let Some(seed) = failed {
            eprintln!("fuzz: {name} fails: FUZZ_SEED={seed} cargo test -p fuzz -- fuzz::{name}");
            code = ExitCode::FAILURE;
        } else if *passed == 0 {
            eprintln!("fuzz: {name} was not tried at all: give it more FUZZ_SECONDS");
            code = ExitCode::FAILURE;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = u64::MAX - 1;

    fn plan() -> Plan {
        Plan {
            total: Duration::from_millis(700),
            first: FIRST,
            workers: 2,
            patience: Duration::from_secs(60),
        }
    }

    fn fine(_: u64) {
        thread::sleep(Duration::from_millis(1));
    }

    fn third(seed: u64) {
        fine(seed);
        assert_ne!(seed, FIRST.wrapping_add(2), "made to fail");
    }

    fn endless(seed: u64) {
        if seed == FIRST.wrapping_add(1) {
            thread::sleep(Duration::from_secs(3600));
        }
    }

    /// Goal: a failure is found and named, the other targets go on, and time is shared alike.
    #[test]
    fn what_fails_is_named_and_the_rest_goes_on() {
        let targets = [
            Target { name: "fine", seed: fine },
            Target { name: "third", seed: third },
            Target { name: "also fine", seed: fine },
        ];
        let all = run(&targets, plan());
        let failed: Vec<_> = all.iter().map(|target| target.failed).collect();
        assert_eq!(failed, [None, Some(FIRST.wrapping_add(2)), None]);
        assert_eq!(all[1].passed, 2, "it is not tried again");
        assert!(all[0].passed > 10 && all[2].passed > 10, "{all:?}");
        assert_eq!(format!("{:?}", tell(&all)), format!("{:?}", ExitCode::FAILURE));
    }

    /// Goal: a seed that never ends does not keep CI waiting.
    #[test]
    fn what_does_not_end_fails() {
        let targets = [Target { name: "endless", seed: endless }];
        let patience = Duration::from_millis(100);
        let all = run(&targets, Plan { patience, total: Duration::from_secs(60), ..plan() });
        assert_eq!(all[0].failed, Some(FIRST.wrapping_add(1)));
    }
}
