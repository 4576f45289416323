//! The cluster's certificates: made on the first start, kept in the data directory, renewed in time.
//!
//! Two authorities: one for the Kubernetes API and the nodes, one for the store, so that a kubectl
//! certificate never opens the store. Below them one certificate for each [`Role`]. `issue` is pure:
//! what a role's certificate must say, and whether an existing one still says it. This file reads and
//! writes the files: keys are readable by their owner only, each file is replaced as a whole, and a
//! lock keeps two starting processes from making two authorities.
//!
//! A leaf is made again when it is about to expire, when it misses a name or address the host now has,
//! or when its authority changed. An authority is never replaced: a lost or damaged one is an error,
//! since every kubeconfig and every node trusts it.

mod issue;

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use time::OffsetDateTime;

use issue::Authority;
pub use issue::Stale;

/// Who a certificate speaks for. The names are those Kubernetes knows its own parts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The API server towards its clients.
    Apiserver,
    /// The API server towards kubelets: the only client a kubelet admits.
    ApiserverKubeletClient,
    /// The person who ran `up`.
    Admin,
    /// The scheduler.
    Scheduler,
    /// The controllers.
    ControllerManager,
    /// The kubelet of this node towards the API server.
    Kubelet,
    /// The kubelet of this node towards the API server's calls.
    KubeletServer,
    /// The Service proxy.
    Proxy,
    /// The embedded store towards its clients.
    StoreServer,
    /// Clients of the store: `etcdctl` and components that run alone.
    StoreClient,
}

impl Role {
    /// Every role, in the order their files are made.
    pub const ALL: [Self; 10] = [
        Self::Apiserver,
        Self::ApiserverKubeletClient,
        Self::Admin,
        Self::Scheduler,
        Self::ControllerManager,
        Self::Kubelet,
        Self::KubeletServer,
        Self::Proxy,
        Self::StoreServer,
        Self::StoreClient,
    ];

    /// File name without extension, inside the pki directory.
    fn file(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::ApiserverKubeletClient => "apiserver-kubelet-client",
            Self::Admin => "admin",
            Self::Scheduler => "scheduler",
            Self::ControllerManager => "controller-manager",
            Self::Kubelet => "kubelet",
            Self::KubeletServer => "kubelet-server",
            Self::Proxy => "proxy",
            Self::StoreServer => "store-server",
            Self::StoreClient => "store-client",
        }
    }
}

/// What certificates must name: the host as it is now, and the cluster's ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Name of this machine's node.
    pub node: String,
    /// Name of this machine.
    pub host: String,
    /// Addresses of this machine, loopback aside.
    pub addresses: Vec<IpAddr>,
    /// First address of the Service range: where pods find the API.
    pub api_service: IpAddr,
}

/// A certificate with its key, as text and as files.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
}

impl std::fmt::Debug for Identity {
    /// Without the key: it must not reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cert_path", &self.cert_path).finish_non_exhaustive()
    }
}

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged ({reason}); restore it from a backup, or remove the whole directory to start a new authority",
        .path.display()
    )]
    Authority { path: PathBuf, reason: String },
    #[error("cannot make the certificate {name}: {reason}")]
    Issue { name: &'static str, reason: String },
    #[error("{} is missing; `orchestrator up` makes it", .0.display())]
    Missing(PathBuf),
}

/// The opened certificates of one cluster.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
    /// What was made or renewed by this call, for the progress line.
    pub renewed: Vec<(Role, Stale)>,
    /// PEM text of the authority of the Kubernetes API.
    pub ca_pem: String,
    /// PEM text of the store's authority.
    pub store_ca_pem: String,
    /// Bearer token that speaks for the admin.
    pub admin_token: String,
}

const CLUSTER_AUTHORITY: &str = "ca";
const STORE_AUTHORITY: &str = "store-ca";
const TOKEN_FILE: &str = "admin-token";

impl Pki {
    /// Opens the directory, making or renewing what is missing or stale.
    pub fn open(dir: &Path, names: &Names, now: OffsetDateTime) -> Result<Self, Error> {
        make_private_dir(dir)?;
        let _lock = lock(dir)?;
        let cluster = open_authority(dir, CLUSTER_AUTHORITY, now)?;
        let store = open_authority(dir, STORE_AUTHORITY, now)?;
        let mut renewed = Vec::new();
        for role in Role::ALL {
            let authority = match issue::domain(role) {
                issue::Domain::Cluster => &cluster,
                issue::Domain::Store => &store,
            };
            let (cert_path, key_path) = pair(dir, role.file());
            let held = (read_optional(&cert_path)?, read_optional(&key_path)?);
            let spec = issue::spec(role, names);
            let Some(stale) = issue::stale(&held, &spec, authority, now) else { continue };
            let (cert, key) = issue::leaf(&spec, authority, now)
                .map_err(|error| Error::Issue { name: role.file(), reason: error.to_string() })?;
            // Key first: a certificate is only ever beside a key at least as new, and a pair that
            // does not match is seen as stale at the next start.
            replace(&key_path, key.as_bytes(), 0o600)?;
            replace(&cert_path, cert.as_bytes(), 0o600)?;
            renewed.push((role, stale));
        }
        Ok(Self {
            dir: dir.to_owned(),
            renewed,
            ca_pem: cluster.cert_pem,
            store_ca_pem: store.cert_pem,
            admin_token: open_token(&dir.join(TOKEN_FILE))?,
        })
    }

    /// The certificate and key of a role.
    pub fn identity(&self, role: Role) -> Result<Identity, Error> {
        let (cert_path, key_path) = pair(&self.dir, role.file());
        Ok(Identity {
            cert_pem: read_required(&cert_path)?,
            key_pem: read_required(&key_path)?,
            cert_path,
            key_path,
        })
    }

    /// Files a client of the store needs: authority, certificate, key.
    pub fn store_client_files(&self) -> [PathBuf; 3] {
        client_files(&self.dir)
    }
}

/// The same files in a directory that is not opened; an error when they are not all there.
pub fn store_client_files(dir: &Path) -> Result<[PathBuf; 3], Error> {
    let files = client_files(dir);
    match files.iter().find(|path| !path.exists()) {
        Some(missing) => Err(Error::Missing(missing.clone())),
        None => Ok(files),
    }
}

fn client_files(dir: &Path) -> [PathBuf; 3] {
    let (cert, key) = pair(dir, Role::StoreClient.file());
    [pair(dir, STORE_AUTHORITY).0, cert, key]
}

fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

/// Reads an authority, or makes it when neither of its files exists.
fn open_authority(dir: &Path, name: &'static str, now: OffsetDateTime) -> Result<Authority, Error> {
    let (cert_path, key_path) = pair(dir, name);
    match (read_optional(&cert_path)?, read_optional(&key_path)?) {
        (Some(cert), Some(key)) => Authority::parse(name, cert, &key)
            .map_err(|reason| Error::Authority { path: cert_path, reason }),
        // A crash between the two writes leaves a key that has signed nothing.
        (None, _) => {
            let (authority, key) = Authority::generate(name, now)
                .map_err(|error| Error::Issue { name, reason: error.to_string() })?;
            replace(&key_path, key.as_bytes(), 0o600)?;
            replace(&cert_path, authority.cert_pem.as_bytes(), 0o644)?;
            Ok(authority)
        }
        (Some(_), None) => Err(Error::Authority {
            path: key_path,
            reason: "the certificate is there, its key is not".into(),
        }),
    }
}

fn open_token(path: &Path) -> Result<String, Error> {
    if let Some(text) = read_optional(path)? {
        let token = text.trim();
        if !token.is_empty() {
            return Ok(token.to_owned());
        }
    }
    let token =
        rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    replace(path, format!("{token}\n").as_bytes(), 0o600)?;
    Ok(token)
}

fn lock(dir: &Path) -> Result<Flock<fs::File>, Error> {
    let path = dir.join("lock");
    let open =
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|source| Error::File { path: path.clone(), source })?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::File { path, source: errno.into() })
}

fn make_private_dir(dir: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| Error::File { path: dir.to_owned(), source })
}

fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

fn read_required(path: &Path) -> Result<String, Error> {
    read_optional(path)?.ok_or_else(|| Error::Missing(path.to_owned()))
}

/// Replaces a file as a whole: readers see the old text or the new one, also after a power cut.
fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
    write_whole(path, text, mode).map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes beside `path` and renames over it, synced. Shared with the kubeconfig.
pub(crate) fn write_whole(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let result = (|| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result
}

#[cfg(test)]
mod tests;
