//! The cluster's entry in the user's kubeconfig: added beside others, taken out again, never more.
//!
//! The file belongs to the user. Everything in it that is not the cluster's own entry stays as it is,
//! fields this program has never heard of included (comments go, as they do with `kubectl config`).
//! It is replaced as a whole, follows a symbolic link to its target, keeps its owner, and is readable by
//! nobody else, since it holds a key.
//!
//! Which file: the flag, else the first name in `$KUBECONFIG`, else `~/.kube/config` of the user who
//! called: under `sudo` that is not root, and files made there become theirs.

mod merge;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown};

pub use merge::{Entry, MergeError};

/// Where the kubeconfig is, and whose files made there become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub path: PathBuf,
    /// The user behind `sudo`; `None` to leave new files to the process's own user.
    pub owner: Option<(u32, u32)>,
}

/// What the environment says about the calling user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// `$KUBECONFIG`.
    pub kubeconfig: Option<String>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// The user behind `sudo`: home, user and group number.
    pub sudo: Option<(PathBuf, u32, u32)>,
}

impl Caller {
    /// Reads the process's environment.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let behind_sudo = || {
            let name = text("SUDO_USER").filter(|name| name != "root")?;
            let user = User::from_name(&name).ok().flatten()?;
            Some((user.dir, user.uid.as_raw(), user.gid.as_raw()))
        };
        Self {
            kubeconfig: text("KUBECONFIG"),
            home: text("HOME").map(PathBuf::from),
            sudo: if Uid::effective().is_root() { behind_sudo() } else { None },
        }
    }
}

/// Why the kubeconfig was not changed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no kubeconfig: neither --kubeconfig, $KUBECONFIG nor $HOME says where it is")]
    Nowhere,
    #[error("cannot use kubeconfig {}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("kubeconfig {} was left as it is", .path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: MergeError,
    },
}

/// Finds the kubeconfig of the calling user.
pub fn locate(flag: Option<&Path>, caller: &Caller) -> Result<Target, Error> {
    let owner = caller.sudo.as_ref().map(|(_, user, group)| (*user, *group));
    let listed = caller
        .kubeconfig
        .as_deref()
        .and_then(|list| std::env::split_paths(list).find(|path| !path.as_os_str().is_empty()));
    let home = caller.sudo.as_ref().map(|(home, ..)| home.clone()).or_else(|| caller.home.clone());
    let path = flag.map(Path::to_owned).or(listed);
    let path = path.or_else(|| home.map(|home| home.join(".kube").join("config")));
    // `down` reads the path from another working directory.
    let path = path.ok_or(Error::Nowhere)?;
    let path = std::path::absolute(&path).map_err(|source| Error::File { path, source })?;
    Ok(Target { path, owner })
}

/// Adds the cluster and makes it the current one. Returns the name of its context.
pub fn add(target: &Target, entry: &Entry) -> Result<String, Error> {
    let path = real_path(&target.path)?;
    let before = read(&path)?;
    let (text, context) = merge::with(before.as_deref(), entry)
        .map_err(|source| Error::Content { path: target.path.clone(), source })?;
    if before.as_deref() != Some(&text) {
        write(&path, &text, target.owner)?;
    }
    Ok(context)
}

/// Takes the cluster out again, if it is there. An entry of that name with another authority is
/// somebody else's and stays.
pub fn remove(target: &Target, context: &str, ca_pem: &str) -> Result<bool, Error> {
    let path = real_path(&target.path)?;
    let Some(before) = read(&path)? else { return Ok(false) };
    let after = merge::without(&before, context, ca_pem)
        .map_err(|source| Error::Content { path: target.path.clone(), source })?;
    let Some(text) = after else { return Ok(false) };
    write(&path, &text, target.owner)?;
    Ok(true)
}

/// Follows a symbolic link, so that it is the target that is replaced.
fn real_path(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, text: &str, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let at = |source| Error::File { path: path.to_owned(), source };
    let held_by = fs::metadata(path).map(|held| (held.uid(), held.gid())).ok();
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(at)?;
        give(parent, owner).map_err(at)?;
    }
    crate::pki::write_whole(path, text.as_bytes(), 0o600).map_err(at)?;
    give(path, held_by.or(owner)).map_err(at)
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((user, group)) = owner.filter(|_| Uid::effective().is_root()) else { return Ok(()) };
    chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;
