//! Looking after a data directory: does it add up, what is in it, and less of it on the disk.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;

use super::{
    Context, DataDir, Failure, print, restore,
    stopped::{log_config, patiently},
};
use crate::{
    engine::upkeep::{self, Checked},
    image::Bucket,
    raft,
    wal::{self, mend},
};

/// `store verify`
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    dir: DataDir,
}

impl Verify {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        self.dir.check()?;
        let checked = patiently(context, || {
            upkeep::check(&self.dir.db(), &mut |versions| {
                Context::tell(&format!("{versions} versions checked"));
            })
        })?;
        let mut problems = checked.problems.clone();
        print::line(&format!(
            "database: {} versions of {} keys, {} leases, revision {}, compacted {}, log entry {}",
            checked.versions,
            checked.keys,
            checked.leases,
            checked.revision,
            print::compacted(checked.compacted.0),
            entry(checked.applied)
        ))?;
        raft::describe(checked.raft.clone())?;
        self.log(context, &checked, &mut problems)?;
        if problems.is_empty() {
            return print::line("everything adds up");
        }
        for problem in &problems {
            print::line(&format!("PROBLEM: {problem}"))?;
        }
        Err(Failure::new(format!("{} problems found", problems.len())))
    }

    fn log(
        &self,
        context: &Context,
        checked: &Checked,
        problems: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let Some(disk) = self.dir.disk(context)? else {
            if checked.applied.is_some() {
                problems.push(format!("there is no log in {}", self.dir.wal().display()));
            }
            return Ok(());
        };
        let found = mend::inspect(&disk, &log_config(checked.identity))?;
        let last = found.state.last.map(|last| last.index);
        print::line(&format!(
            "log: {} segments, entries {} to {}",
            found.segments,
            found.first,
            entry(last)
        ))?;
        if let Some((file, offset, bytes)) = &found.torn {
            print::line(&format!(
                "log: {file} ends in a write that was interrupted and never acknowledged \
                 ({bytes} bytes at {offset}); the next start cuts it"
            ))?;
        }
        if let Some(damage) = &found.damage {
            problems.push(damage.fault.to_string());
        } else if checked.applied > last {
            problems.push(format!(
                "the log ends at entry {}, but the database is of entry {}",
                entry(last),
                entry(checked.applied)
            ));
        }
        let purged = found.state.purged.map(|purged| purged.index);
        if purged > checked.applied {
            problems.push(format!(
                "the log begins after entry {}, but the database is of entry {}",
                entry(purged),
                entry(checked.applied)
            ));
        }
        Ok(())
    }
}

pub(super) fn entry(index: Option<u64>) -> String {
    index.map_or_else(|| "none".to_owned(), |index| index.to_string())
}

/// `store defrag`
#[derive(Debug, Args)]
pub(super) struct Defrag {
    #[command(flatten)]
    dir: DataDir,
}

impl Defrag {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        self.dir.check()?;
        let (before, after) = patiently(context, || upkeep::shrink(&self.dir.db()))?;
        Context::tell(&format!(
            "the database took {} and takes {}",
            print::bytes(before),
            print::bytes(after)
        ));
        Ok(())
    }
}

/// `store dump-log`
#[derive(Debug, Args)]
pub(super) struct DumpLog {
    /// Segment files, in whatever state they are
    files: Vec<PathBuf>,
    /// All segments of a stopped data directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    data_dir: Option<PathBuf>,
    /// The log of the data directory, if that is elsewhere
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    wal_dir: Option<PathBuf>,
}

impl DumpLog {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut files = self.files.clone();
        // Held until the end, so that no server recycles a segment that is being printed.
        let mut lock = None;
        if let Some(data_dir) = self.data_dir {
            let dir = DataDir { data_dir, wal_dir: self.wal_dir };
            dir.check()?;
            lock = dir.disk(context)?;
            let segments = std::fs::read_dir(dir.wal())?;
            for segment in segments {
                let path = segment?.path();
                if path.extension().is_some_and(|extension| extension == "wal") {
                    files.push(path);
                }
            }
            files.sort_unstable();
        }
        if files.is_empty() {
            return Err(Failure::new("give --data-dir, or segment files"));
        }
        for file in files {
            print::line(&format!("{}:", file.display()))?;
            let opened = File::open(&file)?;
            let mut window = wal::segment::Window::new(Arc::new(ReadOnly(opened)))?;
            let mut printed = Ok(());
            wal::dump::segment(&mut window, |text| {
                if printed.is_ok() {
                    printed = print::line(text);
                }
            })?;
            printed?;
        }
        drop(lock);
        Ok(())
    }
}

/// A file that is only looked at.
struct ReadOnly(File);

impl wal::disk::File for ReadOnly {
    fn size(&self) -> std::io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.0.read_at(&mut into[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn set_size(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `store dump-db`
#[derive(Debug, Args)]
pub(super) struct DumpDb {
    /// A backup or a database file of etcd's
    file: Option<PathBuf>,
    /// A stopped data directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    data_dir: Option<PathBuf>,
    /// Which table (alarm, cur, hist, lease, lease_keys, member, meta) or bucket; meta if none is
    /// given
    #[arg(long, default_value = "meta", value_name = "NAME")]
    table: String,
    /// Print so many rows; 0 is all
    #[arg(long, default_value_t = 0, value_name = "N")]
    limit: u64,
    /// Print values too, which may be secret
    #[arg(long)]
    values: bool,
}

impl DumpDb {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match (&self.file, &self.data_dir) {
            (Some(file), None) => self.image(file),
            (None, Some(data_dir)) => {
                let dir = DataDir { data_dir: data_dir.clone(), wal_dir: None };
                self.database(&dir, context)
            }
            _ => Err(Failure::new("give --data-dir, or a file")),
        }
    }

    fn database(&self, dir: &DataDir, context: &Context) -> Result<(), Failure> {
        dir.check()?;
        if !upkeep::TABLES.contains(&&self.table[..]) {
            let tables = upkeep::TABLES.join(", ");
            return Err(Failure::new(format!("there is no table `{}`: {tables}", self.table)));
        }
        let (mut printed, mut rows) = (Ok(()), 0);
        patiently(context, || {
            upkeep::dump(&dir.db(), &self.table, self.values, &mut |text| {
                printed = print::line(text);
                rows += 1;
                printed.is_ok() && (self.limit == 0 || rows < self.limit)
            })
        })?;
        printed
    }

    fn image(&self, file: &Path) -> Result<(), Failure> {
        let image = restore::open(file)?;
        let bucket = self.table.as_bytes();
        if !Bucket::ALL.contains(&bucket) {
            let names = Bucket::ALL.map(|name| String::from_utf8_lossy(name).into_owned());
            let names = names.join(", ");
            return Err(Failure::new(format!("there is no bucket `{}`: {names}", self.table)));
        }
        let mut rows = 0;
        image.walk_only(bucket, &mut |entry| {
            let Some(value) = entry.value else { return Ok(()) };
            if self.limit != 0 && rows == self.limit {
                return Ok(());
            }
            rows += 1;
            let value = if self.values {
                value.escape_ascii().to_string()
            } else {
                format!("({} bytes)", value.len())
            };
            print::line(&format!("{} {value}", entry.key.escape_ascii()))
        })
    }
}
