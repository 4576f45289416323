//! From a backup, or from etcd's stopped data directory, to a data directory of ours.
//!
//! The new data directory appears whole or not at all: the database is filled under another name,
//! made durable, and renamed. The server that is then started on it finds a store that has a
//! history and has never taken part in a cluster, and forms a new one, as after etcd's restore.
//!
//! A restore makes new ids from the names and URLs it is given. An import of a data directory
//! keeps the ids that the single member had, so that clients go on with the cluster they know.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Context, Failure, print};
use crate::{
    command::MemberId,
    config::{Url, urls},
    engine::{Identity, Storage},
    ids,
    image::{self, Image, Imported, Small},
};

/// Who the new store is.
#[derive(Debug, Args)]
struct Target {
    /// Path to the output data directory (NAME.etcd if none is given)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Path to the WAL directory (in the data directory if none is given)
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// Human-readable name for this member
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
    /// Initial cluster configuration for the first start
    #[arg(long, value_name = "NAME=URL,...")]
    initial_cluster: Option<String>,
    /// Initial cluster token for the first start
    #[arg(long, value_name = "TOKEN")]
    initial_cluster_token: Option<String>,
    /// List of this member's peer URLs to advertise to the rest of the cluster
    #[arg(long, value_name = "URL,...")]
    initial_advertise_peer_urls: Option<String>,
}

const PEER_URL: &str = "http://localhost:2380";
const TOKEN: &str = "etcd-cluster";

impl Target {
    /// Whether anything was said about the cluster to be.
    fn names_cluster(&self) -> bool {
        self.initial_cluster.is_some()
            || self.initial_cluster_token.is_some()
            || self.initial_advertise_peer_urls.is_some()
    }

    /// The ids that follow from names and URLs, as at a first start.
    fn identity(&self) -> Result<Identity, Failure> {
        let urls = self.initial_advertise_peer_urls.as_deref().unwrap_or(PEER_URL);
        let own = Url::parse_list(urls)
            .map_err(|reason| Failure::new(format!("--initial-advertise-peer-urls: {reason}")))?;
        let default = format!("default={PEER_URL}");
        let cluster = self.initial_cluster.as_deref().unwrap_or(&default);
        let cluster = urls::parse_cluster(cluster)
            .map_err(|reason| Failure::new(format!("--initial-cluster: {reason}")))?;
        let Some(given) = cluster.get(&self.name) else {
            let name = &self.name;
            return Err(Failure::new(format!(
                "couldn't find local name {name:?} in the initial cluster configuration"
            )));
        };
        if !given.iter().all(|url| own.contains(url)) || !own.iter().all(|url| given.contains(url))
        {
            let name = &self.name;
            return Err(Failure::new(format!(
                "--initial-cluster and --initial-advertise-peer-urls must give the same URLs for \
                 {name}"
            )));
        }
        let token = self.initial_cluster_token.as_deref().unwrap_or(TOKEN);
        let id = |urls: &Vec<Url>| {
            let urls: Vec<&str> = urls.iter().map(Url::as_str).collect();
            ids::member_id(&urls, token)
        };
        let members: Vec<MemberId> = cluster.values().map(id).collect();
        Ok(Identity { cluster: ids::cluster_id(&members), member: id(given).0 })
    }

    fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| format!("{}.etcd", self.name).into())
    }

    /// Fills the new data directory.
    fn fill(
        &self,
        image: &Image<File>,
        identity: Identity,
        options: image::Options,
    ) -> Result<(), Failure> {
        let data_dir = self.data_dir();
        if fs::read_dir(&data_dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::new(format!(
                "data-dir {data_dir:?} not empty or could not be read"
            )));
        }
        if let Some(wal_dir) = self.wal_dir.as_ref().filter(|wal_dir| wal_dir.exists()) {
            return Err(Failure::new(format!("wal-dir {wal_dir:?} exists")));
        }
        let member = data_dir.join("member");
        make_directory(&member)?;
        let loaded = load(image, identity, options, &member, &mut tell_versions);
        let imported = loaded.inspect_err(|_| {
            // Not being able to remove what has no use changes nothing about the failure.
            let _ = fs::remove_dir(&member);
            let _ = fs::remove_dir(&data_dir);
        })?;
        make_directory(self.wal_dir.as_deref().unwrap_or(&member.join("wal")))?;
        sync(&data_dir)?;
        tell(&imported, &data_dir);
        Ok(())
    }
}

/// Fills the database of a member's directory, which appears there whole or not at all.
pub(super) fn load(
    image: &Image<File>,
    identity: Identity,
    options: image::Options,
    member: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Imported, Failure> {
    let (part, db) = (member.join("db.part"), member.join("db"));
    // Of an attempt that was killed.
    if part.exists() {
        fs::remove_dir_all(&part).map_err(|error| failed("remove", &part, &error))?;
    }
    let storage = Storage::Directory(part.clone());
    let imported =
        image::import(image, storage, identity, options, progress).inspect_err(|_| {
            let _ = fs::remove_dir_all(&part);
        })?;
    fs::rename(&part, &db).map_err(|error| failed("rename", &part, &error))?;
    sync(member)?;
    Ok(imported)
}

fn sync(directory: &Path) -> Result<(), Failure> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| failed("sync", directory, &error))
}

/// Versions between two lines of progress.
const TOLD_EVERY: u64 = 500_000;

fn tell_versions(versions: u64) {
    if versions.is_multiple_of(TOLD_EVERY) {
        Context::tell(&format!("{versions} versions so far"));
    }
}

fn tell(imported: &Imported, data_dir: &Path) {
    let Imported { revision, compacted, versions, leases } = imported;
    Context::tell(&format!(
        "restored revision {revision} (compacted {}): {versions} versions, {leases} \
         leases, into {}",
        print::compacted(*compacted),
        data_dir.display()
    ));
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{what} {}: {error}", path.display()))
}

/// For the owner's eyes only: what is stored may be secret.
fn make_directory(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("make", path, &error))
}

/// Opens a file of etcd's.
pub(super) fn open(path: &Path) -> Result<Image<File>, Failure> {
    let file = File::open(path).map_err(|error| failed("open", path, &error))?;
    Ok(Image::open(file)?)
}

/// `store snapshot restore`
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Ignore the digest that follows a backup (required for a file copied from a data directory)
    #[arg(long)]
    skip_hash_check: bool,
    /// How much to increase the latest revision after the restore
    #[arg(long, default_value_t = 0, value_name = "N")]
    bump_revision: u64,
    /// Mark everything up to the latest revision after the restore as compacted (required with
    /// --bump-revision, and only then allowed)
    #[arg(long)]
    mark_compacted: bool,
    /// Accepted for etcd's scripts; the database is not mapped into memory
    #[arg(long, value_name = "BYTES")]
    initial_memory_map_size: Option<u64>,
}

impl Restore {
    pub(super) fn run(self, _: &Context) -> Result<(), Failure> {
        let Some(file) = &self.file else {
            return Err(Failure::arguments("snapshot restore requires exactly one argument"));
        };
        if (self.bump_revision > 0) != self.mark_compacted {
            return Err(Failure::arguments("--mark-compacted required if --revision-bump > 0"));
        }
        if self.initial_memory_map_size.is_some() {
            Context::tell(
                "warning: --initial-memory-map-size has no effect: the database is not mapped \
                 into memory",
            );
        }
        let identity = self.target.identity()?;
        let image = open(file)?;
        if !self.skip_hash_check {
            image::check_digest(&image)?;
        }
        self.target.fill(&image, identity, image::Options { bump_revision: self.bump_revision })
    }
}

/// `store import`
#[derive(Debug, Args)]
pub(super) struct Import {
    /// etcd's data directory, its server stopped; or a backup, or a database file of etcd's
    source: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Where etcd's log is, if not in its data directory
    #[arg(long, value_name = "DIR")]
    source_wal_dir: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if super::stopped::is_directory(&self.source) {
            return self.directory(context);
        }
        let identity = self.target.identity()?;
        let image = open(&self.source)?;
        // A database file has no digest, a backup has one.
        if image.digest().is_some() {
            image::check_digest(&image)?;
        }
        self.target.fill(&image, identity, image::Options::default())
    }

    fn directory(mut self, context: &Context) -> Result<(), Failure> {
        let member = self.source.join("member");
        let wal = self.source_wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        let EtcdData { image, small, log } =
            EtcdData::open(&member.join("snap/db"), &wal, context)?;
        let identity = match small.only_member() {
            Some((id, name, _)) if !self.target.names_cluster() && id == log.node => {
                if self.target.data_dir.is_none() && self.target.name == "default" {
                    self.target.name = name.to_owned();
                }
                Context::tell(&format!(
                    "keeping member {:x} ({name}) of cluster {:x}",
                    log.node, log.cluster
                ));
                Identity { cluster: log.cluster, member: log.node }
            }
            _ => self.target.identity()?,
        };
        self.target.fill(&image, identity, image::Options::default())
    }
}

/// What a stopped member of etcd's has left.
pub(super) struct EtcdData {
    pub(super) image: Image<File>,
    pub(super) small: Small,
    pub(super) log: image::LogSummary,
}

impl EtcdData {
    /// Opens its database under its lock. Refuses one that lacks what is in the log.
    pub(super) fn open(db: &Path, wal: &Path, context: &Context) -> Result<Self, Failure> {
        let file = File::open(db).map_err(|error| failed("open", db, &error))?;
        // etcd holds this lock for as long as it runs.
        super::stopped::patiently(context, || match file.try_lock() {
            Ok(()) => Ok(()),
            Err(fs::TryLockError::WouldBlock) => {
                Err(crate::fault::Fault::Locked { path: db.to_owned() })
            }
            Err(fs::TryLockError::Error(error)) => {
                Err(crate::fault::Fault::io(format!("lock {}", db.display()), error))
            }
        })?;
        let image = Image::open(file)?;
        let small = Small::read(&image)?;
        let log = image::read_etcd_log(wal, small.consistent_index)?;
        if let Some(index) = log.unapplied {
            return Err(Failure::new(format!(
                "etcd was not stopped cleanly: its log holds changes from entry {index} on that \
                 its database (at entry {}) lacks, and only etcd can apply them. Start etcd on \
                 this directory again, then either stop it with SIGTERM and try once more, or \
                 take a backup with `etcdctl snapshot save FILE` and `store import FILE`",
                small.consistent_index
            )));
        }
        Ok(Self { image, small, log })
    }
}
