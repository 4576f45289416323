//! What to do about a damaged log: look first, cut on demand.
//!
//! A torn write at the end of the log is cut at every start, for nobody was told of it. Damage
//! before that means that acknowledged writes cannot be read any more. This command says how many
//! and which, and with `--cut` gives them up: it copies the log aside, cuts it where the damage
//! begins, and leaves a log that the server starts with.
//!
//! Where the database's checkpoint is beyond the damage, nothing of the log is needed before it; the
//! log is then begun anew at the checkpoint, because a log that ends before its database is
//! refused as well.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;

use super::{
    Context, DataDir, Failure,
    check::entry,
    print,
    stopped::{log_config, patiently},
};
use crate::{
    engine::upkeep::{self, Checked},
    raft,
    wal::{
        self, Disk as _, LogId, RealDisk, Record, Vote,
        log::Log,
        mend::{self, Damage, Inspection},
    },
};

/// `store repair`
#[derive(Debug, Args)]
pub(super) struct Repair {
    #[command(flatten)]
    dir: DataDir,
    /// Cut the log where it is damaged and lose what is said to be lost; a copy is kept
    #[arg(long)]
    cut: bool,
}

impl Repair {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        self.dir.check()?;
        let checked = patiently(context, || upkeep::check(&self.dir.db(), &mut |_| {}))?;
        let Some(disk) = self.dir.disk(context)? else {
            let wal = self.dir.wal();
            return Err(Failure::new(format!("there is no log in {}", wal.display())));
        };
        let config = log_config(checked.identity);
        let found = mend::inspect(&disk, &config)?;
        let Some(damage) = &found.damage else {
            return print::line("the log is not damaged; nothing to do");
        };
        explain(&found, damage, &checked)?;
        if !self.cut {
            return Err(Failure::new("nothing was changed; `--cut` gives up what is lost"));
        }
        let copy = keep_copy(&self.dir.wal())?;
        print::line(&format!("the log as it was is in {}", copy.display()))?;
        if checked.applied > found.state.last.map(|last| last.index) {
            begin_anew(Arc::new(disk), &config, &found, &checked)?;
            print::line("the log begins anew at the database's checkpoint")?;
        } else {
            mend::cut(&disk, damage)?;
            print::line("the log is cut; the server can be started")?;
        }
        Ok(())
    }
}

fn explain(found: &Inspection, damage: &Damage, checked: &Checked) -> Result<(), Failure> {
    print::line(&damage.fault.to_string())?;
    let kept = found.state.last.map(|last| last.index);
    print::line(&format!("readable up to entry {}", entry(kept)))?;
    print::line(&format!("the database holds everything up to entry {}", entry(checked.applied)))?;
    let lost = &damage.lost;
    match lost.range {
        Some((first, last)) => print::line(&format!(
            "behind the damage {} entries between {first} and {last} are intact by themselves \
             ({}, in {} files)",
            lost.entries,
            print::bytes(lost.bytes),
            damage.files.len()
        ))?,
        None => print::line("behind the damage nothing can be read")?,
    }
    let safe = kept.max(checked.applied);
    let is_nothing = lost.range.is_none_or(|(_, last)| Some(last) <= safe);
    print::line(&if is_nothing && checked.applied > kept {
        "cutting would lose nothing that can be seen: the database has it all".to_owned()
    } else {
        let until = lost.range.map_or_else(String::new, |(_, last)| format!(" up to {last}"));
        format!(
            "cutting loses every write after entry {}{until}, acknowledged ones among them",
            entry(safe)
        )
    })
}

/// Copies the log's files into a new directory beside it.
fn keep_copy(wal: &Path) -> Result<PathBuf, Failure> {
    let name = |nth: u32| {
        let mut name = wal.as_os_str().to_owned();
        name.push(format!(".damaged-{nth}"));
        PathBuf::from(name)
    };
    let mut nth = 1;
    while name(nth).exists() {
        nth += 1;
    }
    let copy = name(nth);
    DirBuilder::new().mode(0o700).create(&copy)?;
    for file in fs::read_dir(wal)? {
        let path = file?.path();
        let Some(name) = path
            .file_name()
            .filter(|_| path.extension().is_some_and(|extension| extension == "wal"))
        else {
            continue;
        };
        let target = copy.join(name);
        fs::copy(&path, &target)?;
        File::open(&target)?.sync_all()?;
    }
    File::open(&copy)?.sync_all()?;
    Ok(copy)
}

/// A log that holds nothing and continues where the database stands.
fn begin_anew(
    disk: Arc<RealDisk>,
    config: &wal::Config,
    found: &Inspection,
    checked: &Checked,
) -> Result<(), Failure> {
    let Some(index) = checked.applied else {
        return Err(Failure::new("the database holds nothing either"));
    };
    let term = raft::describe(checked.raft.clone())?.term;
    let vote = found.state.vote.filter(|vote| vote.term >= term);
    let vote = vote.unwrap_or(Vote { term, node: config.node, committed: false });
    for name in disk.list()?.iter().filter(|name| wal::log::number_of(name).is_some()).rev() {
        disk.remove(name)?;
    }
    disk.sync_dir()?;
    let mut log = Log::open(disk, *config)?;
    Ok(log.write([&Record::Vote(vote), &Record::Purge(LogId { term, index })])?)
}
