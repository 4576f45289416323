//! Backups: writing one from a stopped data directory, and what is in one.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Context, DataDir, Failure,
    print::{self, Field},
    restore,
};
use crate::{
    command::Revision,
    image::{self, Stop},
};

/// `store export`
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The backup to be written
    file: PathBuf,
    #[command(flatten)]
    dir: DataDir,
}

impl Export {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.file.exists() {
            return Err(Failure::new(format!("{} exists already", self.file.display())));
        }
        let stopped = self.dir.open(context)?;
        Context::tell("counting what the backup will hold");
        let export = image::Export::measure(stopped.moment())?;
        let part = self.file.with_extension("part");
        let written = self.write(&export, &part);
        if written.is_err() {
            // Without its end it is worthless; that it may stay changes nothing about the failure.
            let _ = fs::remove_file(&part);
        }
        written?;
        fs::rename(&part, &self.file)?;
        Context::tell(&format!(
            "exported revision {} into {} ({})",
            export.revision(),
            self.file.display(),
            print::bytes(export.bytes())
        ));
        Ok(())
    }

    /// For the owner's eyes only: what is stored may be secret.
    fn write(&self, export: &image::Export, part: &Path) -> Result<(), Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(part)?;
        let mut told = Told { out: BufWriter::new(file), written: 0, all: export.bytes() };
        let digest = export.write(&mut told)?;
        let mut out = told.out;
        out.write_all(&digest)?;
        let file: File = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    }
}

/// Says now and then how far it has come.
struct Told {
    out: BufWriter<File>,
    written: u64,
    all: u64,
}

const TOLD_EVERY: u64 = 256 << 20;

impl image::Sink for Told {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.write_all(bytes)?;
        let before = self.written / TOLD_EVERY;
        self.written += bytes.len() as u64;
        if self.written / TOLD_EVERY > before {
            let (written, all) = (print::bytes(self.written), print::bytes(self.all));
            Context::tell(&format!("{written} of {all} written"));
        }
        Ok(())
    }
}

/// `store snapshot status`
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The backup, or a database file of etcd's
    file: Option<PathBuf>,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            return Err(Failure::arguments("snapshot status requires exactly one argument"));
        };
        let status = image::status(&restore::open(file)?)?;
        let field = |json, field, column, value| Field { json, field, column, value, shown: None };
        print::result(
            context.format,
            &[
                Field {
                    shown: Some(format!("{:x}", status.hash)),
                    ..field("hash", "Hash", "hash", status.hash.into())
                },
                field("revision", "Revision", "revision", status.revision.into()),
                field("totalKey", "Keys", "total keys", status.total_keys.into()),
                Field {
                    shown: Some(print::bytes(status.total_bytes)),
                    ..field("totalSize", "Size", "total size", status.total_bytes.into())
                },
                field("version", "Version", "version", status.version.into()),
            ],
        )
    }
}

/// `store hashkv`
#[derive(Debug, Args)]
pub(super) struct HashKv {
    /// A backup, a database file of etcd's, or a stopped data directory of ours
    path: PathBuf,
    /// The log of the data directory, if that is elsewhere
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// Maximum revision to hash (default: latest revision)
    #[arg(long, default_value_t = 0, value_name = "N")]
    rev: i64,
}

impl HashKv {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (hash, revision, compacted) = if super::stopped::is_directory(&self.path) {
            let dir = DataDir { data_dir: self.path, wal_dir: self.wal_dir };
            let stopped = dir.open(context)?;
            let digest = stopped.reader.view().hash_kv(Revision(self.rev))?;
            (digest.hash, digest.revision.0, digest.compacted.0)
        } else {
            let found = image::hash_kv(&restore::open(&self.path)?, self.rev)?;
            (found.hash, found.revision, found.compacted)
        };
        let field = |json, field, column, value| Field { json, field, column, value, shown: None };
        print::result(
            context.format,
            &[
                field("hash", "Hash", "hash", hash.into()),
                field("hashRevision", "Hash revision", "hash revision", revision.into()),
                field("compactRevision", "Compact revision", "compact revision", compacted.into()),
            ],
        )
    }
}
