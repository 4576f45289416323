//! Loads on any etcd endpoint, and comparisons of servers under them.
//!
//! - [`wire`], [`link`]: a client that costs a fraction of a general one; [`endpoint`] is where it
//!   connects to, [`explain`] asks again what it was refused.
//! - [`drive`]: closed and open loops; [`work`]: requests written from templates.
//! - [`fan`], [`keepalive`], [`kube`], [`disturb`]: loads with a shape of their own.
//! - [`job`], [`list`]: one measurement, and all of them.
//! - [`contest`], [`meter`], [`table`]: who is compared, what they used, what is printed.
//! - [`limit`]: the server that stores nothing.

pub mod wire;
pub mod link;
pub mod endpoint;
pub mod failure;
pub mod explain;
pub mod drive;
pub mod work;
pub mod fan;
pub mod keepalive;
pub mod kube;
pub mod disturb;
pub mod meter;
pub mod job;
pub mod list;
pub mod contest;
pub mod table;
pub mod limit;

use std::path::Path;

use contest::{Contestant, Who};
use job::{Job, Kind, Setting, Target};
use table::{Figures, Table};

/// Runs jobs on servers of its own, alternately, and tells of each row as it comes.
///
/// # Panics
/// When a server does not start.
pub fn compare(jobs: &[Job], whos: &[Who], rounds: usize, setting: Setting, dir: &Path) -> Table {
    let mut contestants: Vec<Contestant> = Vec::new();
    for who in whos {
        let contestant = Contestant::start(*who, dir, setting.value_size);
        contestants.push(contestant.expect("the endpoint was made here"));
    }
    contestants.iter().for_each(Contestant::freeze);
    let mut table = Table::default();
    for job in jobs {
        let rounds = if job.kind == Kind::Fill { 1 } else { rounds };
        for _ in 0..rounds {
            for contestant in contestants.iter_mut().filter(|one| job.suits(one.who)) {
                contestant.thaw();
                for (name, outcome) in one(job, contestant, setting) {
                    eprintln!("{}", table::line(&name, contestant.who.name(), outcome.as_ref()));
                    table.add(&name, contestant.who, outcome);
                }
                contestant.freeze();
            }
        }
    }
    table
}

/// One job on one contestant: a row, or several.
fn one(
    job: &Job,
    contestant: &mut Contestant,
    setting: Setting,
) -> Vec<(String, Result<Figures, String>)> {
    if let Kind::Boot { loaded } = job.kind {
        let outcome = job::boot(contestant, loaded, setting).map_err(|failure| failure.to_string());
        return vec![(job.name.clone(), outcome)];
    }
    let target = Target { endpoint: contestant.endpoint.clone(), subject: contestant.subject() };
    match job::block_on(job::run(job, &target, setting)) {
        Err(failure) => vec![(job.name.clone(), Err(failure.to_string()))],
        Ok(rows) => rows
            .into_iter()
            .map(|(suffix, figures)| {
                (format!("{} {suffix}", job.name).trim_end().to_owned(), Ok(figures))
            })
            .collect(),
    }
}
