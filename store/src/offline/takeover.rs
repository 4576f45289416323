//! A server that is started where etcd has been.
//!
//! Whoever puts this binary in the place of etcd's, or makes a data directory with `etcdutl snapshot
//! restore`, starts it on a directory that holds etcd's files and none of ours. To serve an empty
//! store there would look like a loss of everything. So a first start takes over what is there,
//! exactly as `store import` does: only from a member that was stopped cleanly, and with the ids
//! that clients know.
//!
//! etcd's files stay where they are and as they are (ours have other names beside them), so the way
//! back is to start etcd again, with the data of the moment it was stopped. From then on our
//! database decides: a directory is taken over once.

use std::{path::Path, time::Duration};

use super::{Context, print::Format, restore};
use crate::{
    engine::{Identity, upkeep},
    image,
};

/// A server has no patience: whoever holds the files is likely to go on holding them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Versions between two lines of progress.
const TOLD_EVERY: u64 = 500_000;

/// Takes over etcd's data, if there are any and none of ours. The error says why not, and what to
/// do.
pub fn take_over(data_dir: &Path, wal_dir: &Path) -> Result<(), String> {
    let member = data_dir.join("member");
    let etcds = member.join("snap/db");
    if upkeep::exists(&member.join("db")) || !etcds.exists() {
        return Ok(());
    }
    let context = Context { format: Format::Simple, timeout: PATIENCE };
    let failed = |failure: super::Failure| {
        format!("it holds data of etcd's, which cannot be taken over: {}", failure.text)
    };
    let data = restore::EtcdData::open(&etcds, wal_dir, &context).map_err(failed)?;
    let (node, cluster) = (data.log.node, data.log.cluster);
    if data.small.only_member().is_none_or(|(id, ..)| id != node) {
        return Err(
            "it holds data of one of several members of etcd's, and a cluster of several is \
                    not built yet: `store import` makes a single member of them"
                .to_owned(),
        );
    }
    let path = etcds.display().to_string();
    tracing::info!(path, member = format!("{node:x}"), "taking over etcd's data");
    let identity = Identity { cluster, member: node };
    let mut progress = |versions: u64| {
        if versions.is_multiple_of(TOLD_EVERY) {
            tracing::info!(versions, "taking over etcd's data");
        }
    };
    let options = image::Options::default();
    let imported = restore::load(&data.image, identity, options, &member, &mut progress);
    let imported = imported.map_err(failed)?;
    tracing::info!(
        revision = imported.revision,
        compacted = imported.compacted,
        versions = imported.versions,
        leases = imported.leases,
        "took over etcd's data; its files stay as they are and are not read again"
    );
    Ok(())
}
