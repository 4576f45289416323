//! `orchestrator down`: takes away what `up` made on this machine.
//!
//! It works from what is found on the machine, not from what was asked for: pods are known by their
//! directories and cgroups, the network by the names of the bridge and the table. So it can be run after
//! any crash, and run again when it was interrupted.

use std::path::Path;

use anyhow::Context as _;

use super::cluster;
use super::config::absolute;
use super::data_dir::DataDir;
use super::progress::Progress;
use super::record::Record;
use crate::cli::{args, root};
use crate::kubeconfig::{self, Caller, Target};
use crate::{kubelet, proxy};

/// Runs `down`.
pub fn run(args: &args::Down) -> anyhow::Result<()> {
    let path = absolute(&args.data.data_dir)?;
    let at = || format!("cannot read data directory {}", path.display());
    let record = Record::read(&path).with_context(at)?;
    let had_node = record.as_ref().is_none_or(|record| record.node.is_some());
    if had_node {
        root::require("taking pods and their network down")?;
    }
    let mut progress = Progress::new();
    let data = DataDir::take_over(&path, |holder| {
        progress.begin(&format!("stopping process {holder}"));
    })?;
    if had_node {
        super::runtime()?.block_on(take_down(&path, record.as_ref(), &mut progress))?;
    }
    if args.purge {
        if let Some(record) = &record {
            forget(args, record, &path, &mut progress)?;
        }
        if let Some(data) = data {
            data.purge()?;
            progress.done("data", &format!("removed {}", path.display()));
        }
    }
    progress.say("Down.");
    Ok(())
}

/// Removes pods, network and table. Everything is tried; what could not be removed is one error.
async fn take_down(
    data_dir: &Path,
    record: Option<&Record>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let node = record.and_then(|record| record.node.as_ref());
    let cluster = node.and_then(|node| node.cluster_cidr.parse().ok());
    let mut failures = kubelet::teardown(&cluster::leftovers(data_dir.to_owned(), cluster)).await;
    progress.done("pods", "removed, with their mounts, cgroups, logs and network");
    match proxy::teardown().await {
        Ok(()) => progress.done("services", "removed from the packet filter"),
        Err(error) => failures.push(format!("{:#}", anyhow::Error::from(error))),
    }
    anyhow::ensure!(
        failures.is_empty(),
        "not everything could be removed: {}",
        failures.join("; ")
    );
    Ok(())
}

/// Takes the cluster out of the kubeconfig.
fn forget(
    args: &args::Down,
    record: &Record,
    data_dir: &Path,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let Some(entry) = &record.kubeconfig else { return Ok(()) };
    let ca_path = data_dir.join("pki").join("ca.crt");
    // Without its authority the entry cannot be told from somebody else's of the same name.
    let Ok(ca_pem) = std::fs::read_to_string(&ca_path) else { return Ok(()) };
    let target = match &args.kubeconfig {
        Some(path) => kubeconfig::locate(Some(path), &Caller::from_env())?,
        None => Target { path: entry.path.clone(), owner: None },
    };
    if kubeconfig::remove(&target, &entry.context, &ca_pem)? {
        progress.done("kubeconfig", &format!("context {:?} removed", entry.context));
    }
    Ok(())
}
