//! The image store itself: the index of names, the blobs, the unpacked layers, and who uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reference::{Reference, ReferenceError, valid_digest};
use super::unpack::{HashingReader, digest_text, unpack_layer};
use super::{archive, builtin};

/// A manifest, index or config larger than this is refused rather than read.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Mount options are limited to one page: 33 bytes a layer fit this many.
const LAYERS_MAX: usize = 110;

/// What can go wrong with images. Every text is a whole sentence for a terminal or an event.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is no image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The file or directory to import is not what it should be.
    #[error("{path}: {reason}")]
    Invalid {
        /// What was being read.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No image of this name is here.
    #[error("no image {0}")]
    NotFound(String),
    /// The image comes with the program.
    #[error("image {0} is built in and cannot be removed")]
    BuiltIn(String),
    /// A running container uses the image.
    #[error("image {0} is in use by a running container")]
    InUse(String),
    /// The disk refused.
    #[error("image store: {context}: {source}")]
    Disk {
        /// What was being done.
        context: String,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
}

/// Attaches what was being done to an I/O error.
pub(super) fn disk(context: impl Into<String>) -> impl FnOnce(io::Error) -> ImageError {
    let context = context.into();
    move |source| ImageError::Disk { context, source }
}

pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> ImageError {
    ImageError::Invalid { path: path.to_owned(), reason: reason.into() }
}

/// One named image, as the index records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the manifest: what Kubernetes reports as the image's id.
    pub manifest: String,
    /// Digest of the configuration.
    pub config: String,
    /// Diff ids, lowest layer first.
    pub layers: Vec<String>,
    /// Blobs of the layers, in the same order.
    pub blobs: Vec<String>,
    /// Bytes of all blobs together.
    pub size: u64,
}

/// What a container takes from its image unless its own spec says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// Environment, `NAME=value` each.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Where it starts.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// The signal that asks it to stop.
    pub stop_signal: String,
}

/// One line of `image ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Full name.
    pub name: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Bytes of all blobs together.
    pub size: u64,
}

/// What an import brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The name it can be run by.
    pub name: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Number of layers.
    pub layers: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
}

/// The store in one directory. Cheap to clone; every method works beside other processes.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

impl ImageStore {
    /// Opens the store in `root`, making its directories, and brings in the built-in images.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self { root: root.into() };
        for part in ["blobs/sha256", "layers", "use", "staging"] {
            let path = store.root.join(part);
            std::fs::create_dir_all(&path).map_err(disk(path.display().to_string()))?;
        }
        builtin::ensure(&store)?;
        Ok(store)
    }

    /// Imports an OCI layout directory, or an OCI or `docker save` archive, optionally gzipped.
    /// `name` overrides the name inside and is needed where the archive has none.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Imported>, ImageError> {
        let name = name.map(Reference::parse).transpose()?;
        let _lock = self.lock()?;
        self.clear_staging()?;
        let mut imported = Vec::new();
        for found in archive::read(self, path, name)? {
            let image = self.install(path, &found.manifest)?;
            imported.push(Imported {
                name: found.name.to_string(),
                digest: image.manifest.clone(),
                layers: image.layers.len(),
            });
            self.name_image(&found.name, image)?;
        }
        self.clear_staging()?;
        Ok(imported)
    }

    /// Every named image, by name.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let summarise = |(name, image): (String, Image)| ImageSummary {
            name,
            digest: image.manifest,
            size: image.size,
        };
        Ok(self.index()?.images.into_iter().map(summarise).collect())
    }

    /// Forgets a name, and removes what no other name needs. Refused while a container runs it.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let reference = Reference::parse(name)?;
        if builtin::holds(&reference) {
            return Err(ImageError::BuiltIn(reference.to_string()));
        }
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let (key, image) = lookup(&index, &reference)
            .map(|(key, image)| (key.clone(), image.clone()))
            .ok_or_else(|| ImageError::NotFound(reference.to_string()))?;
        let shared = index.images.iter().any(|(n, i)| *n != key && i.config == image.config);
        if !shared && !self.try_exclusive(&image)? {
            return Err(ImageError::InUse(reference.to_string()));
        }
        index.images.remove(&key);
        self.save(&index)?;
        self.sweep(&index)
    }

    /// The image of that name, if it is here.
    pub fn find(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        Ok(lookup(&self.index()?, reference).map(|(_, image)| image.clone()))
    }

    /// What the image says about its program.
    pub fn config(&self, image: &Image) -> Result<ImageConfig, ImageError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            config: Option<ImageConfig>,
        }
        let path = self.blob(&image.config);
        let text = self.document(&image.config)?;
        // Docker writes null for empty lists; a container treats both the same.
        let mut value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| invalid(&path, error.to_string()))?;
        if let Some(config) = value.get_mut("config").and_then(|config| config.as_object_mut()) {
            config.retain(|_, field| !field.is_null());
        }
        let document: Document =
            serde_json::from_value(value).map_err(|error| invalid(&path, error.to_string()))?;
        Ok(document.config.unwrap_or_default())
    }

    /// The directory that holds every layer directory; layer names are relative to it.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Names of the image's layer directories, uppermost first: overlayfs's order.
    pub fn layer_names(&self, image: &Image) -> Vec<String> {
        image.layers.iter().rev().map(|diff_id| layer_name(diff_id)).collect()
    }

    /// The file whose shared lock keeps the image from being removed.
    pub fn use_file(&self, image: &Image) -> PathBuf {
        self.root.join("use").join(hex(&image.config))
    }

    /// The uppermost layer's version of a small file of the image, such as `etc/passwd`.
    pub fn read_file(&self, image: &Image, path: &str) -> Option<String> {
        self.layer_names(image).iter().find_map(|layer| {
            let path = self.layers_dir().join(layer).join(path);
            let plain = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
            plain.then(|| std::fs::read_to_string(path).ok()).flatten()
        })
    }

    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex(digest))
    }

    /// A small file of the store's own.
    pub(super) fn mark(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Copies `source` into the blobs and checks that it is what `digest` names.
    pub(super) fn add_blob(&self, source: impl Read, digest: &str) -> Result<(), ImageError> {
        if !valid_digest(digest) {
            return Err(invalid(Path::new(digest), "is not a sha256 digest"));
        }
        let target = self.blob(digest);
        if target.exists() {
            return Ok(());
        }
        let staged = self.staging().join(hex(digest));
        let mut file = File::create(&staged).map_err(disk(staged.display().to_string()))?;
        let mut reader = HashingReader { inner: source, hash: Sha256::new() };
        io::copy(&mut reader, &mut file).map_err(disk(format!("copying {digest}")))?;
        let found = digest_text(reader.hash);
        if found != digest {
            return Err(invalid(Path::new(digest), format!("the content has digest {found}")));
        }
        file.sync_all().map_err(disk(staged.display().to_string()))?;
        std::fs::rename(&staged, &target).map_err(disk(target.display().to_string()))
    }

    /// Reads a small JSON blob.
    pub(super) fn document(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest);
        let file = File::open(&path).map_err(disk(path.display().to_string()))?;
        let mut text = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(disk(path.display().to_string()))?;
        if text.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(invalid(&path, "is too large for a manifest or a configuration"));
        }
        Ok(text)
    }

    /// Unpacks what the manifest (already a blob, as are its parts) names, checking every diff id.
    pub(super) fn install(&self, origin: &Path, manifest: &str) -> Result<Image, ImageError> {
        let parsed: Manifest = serde_json::from_slice(&self.document(manifest)?)
            .map_err(|error| invalid(origin, format!("manifest {manifest}: {error}")))?;
        let config: ConfigLayers = serde_json::from_slice(&self.document(&parsed.config.digest)?)
            .map_err(|error| invalid(origin, format!("config: {error}")))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() || diff_ids.len() > LAYERS_MAX {
            return Err(invalid(
                origin,
                format!(
                    "{} layers and {} diff ids (equal, and at most {LAYERS_MAX})",
                    parsed.layers.len(),
                    diff_ids.len()
                ),
            ));
        }
        let mut size = 0;
        for (layer, diff_id) in parsed.layers.iter().zip(&diff_ids) {
            if !valid_digest(diff_id) {
                return Err(invalid(origin, format!("{diff_id:?} is not a sha256 digest")));
            }
            let blob = self.blob(&layer.digest);
            size += std::fs::metadata(&blob).map_err(disk(blob.display().to_string()))?.len();
            self.unpack(origin, &blob, diff_id)?;
        }
        let image = Image {
            manifest: manifest.to_owned(),
            config: parsed.config.digest,
            layers: diff_ids,
            blobs: parsed.layers.into_iter().map(|layer| layer.digest).collect(),
            size,
        };
        let use_file = self.use_file(&image);
        File::create(&use_file).map_err(disk(use_file.display().to_string()))?;
        Ok(image)
    }

    fn unpack(&self, origin: &Path, blob: &Path, diff_id: &str) -> Result<(), ImageError> {
        let target = self.layers_dir().join(layer_name(diff_id));
        if target.exists() {
            return Ok(());
        }
        let staged = self.staging().join(format!("layer-{}", layer_name(diff_id)));
        std::fs::create_dir_all(&staged).map_err(disk(staged.display().to_string()))?;
        let found = unpack_layer(blob, &staged)
            .map_err(|error| invalid(origin, format!("layer {diff_id}: {error}")))?;
        if found != diff_id {
            return Err(invalid(origin, format!("a layer has diff id {found}, not {diff_id}")));
        }
        std::fs::rename(&staged, &target).map_err(disk(target.display().to_string()))
    }

    /// Makes `reference` mean `image`. The caller holds the lock.
    pub(super) fn name_image(&self, reference: &Reference, image: Image) -> Result<(), ImageError> {
        let mut index = self.index()?;
        index.images.insert(reference.to_string(), image);
        self.save(&index)
    }

    pub(super) fn lock(&self) -> Result<Flock<File>, ImageError> {
        let path = self.root.join("lock");
        let file = File::create(&path).map_err(disk(path.display().to_string()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| disk(path.display().to_string())(errno.into()))
    }

    pub(super) fn clear_staging(&self) -> Result<(), ImageError> {
        let staging = self.staging();
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(disk(staging.display().to_string())(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&staging).map_err(disk(staging.display().to_string()))
    }

    fn try_exclusive(&self, image: &Image) -> Result<bool, ImageError> {
        let path = self.use_file(image);
        let Ok(file) = File::open(&path) else { return Ok(true) };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(_) => Ok(true),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(false),
            Err((_, errno)) => Err(disk(path.display().to_string())(errno.into())),
        }
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.root.join("index.json");
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| invalid(&path, error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(disk(path.display().to_string())(error)),
        }
    }

    fn save(&self, index: &Index) -> Result<(), ImageError> {
        let path = self.root.join("index.json");
        let staged = self.root.join("index.json.new");
        let text = serde_json::to_vec_pretty(index).expect("strings and numbers serialise");
        let write = || -> io::Result<()> {
            let mut file = File::create(&staged)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&staged, &path)
        };
        write().map_err(disk(path.display().to_string()))
    }

    /// Removes blobs, layers and use files that no name needs any more.
    fn sweep(&self, index: &Index) -> Result<(), ImageError> {
        let images = || index.images.values();
        let blobs: BTreeSet<String> = images()
            .flat_map(|image| {
                image.blobs.iter().chain([&image.manifest, &image.config]).map(|digest| hex(digest))
            })
            .collect();
        let layers: BTreeSet<String> =
            images().flat_map(|image| image.layers.iter().map(|id| layer_name(id))).collect();
        let uses: BTreeSet<String> = images().map(|image| hex(&image.config)).collect();
        for (part, kept) in [("blobs/sha256", &blobs), ("layers", &layers), ("use", &uses)] {
            let directory = self.root.join(part);
            let entries =
                std::fs::read_dir(&directory).map_err(disk(directory.display().to_string()))?;
            for entry in entries.flatten() {
                if kept.contains(&entry.file_name().to_string_lossy().into_owned()) {
                    continue;
                }
                let path = entry.path();
                let removed = if path.is_dir() {
                    std::fs::remove_dir_all(&path)
                } else {
                    std::fs::remove_file(&path)
                };
                removed.map_err(disk(path.display().to_string()))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Debug, Deserialize)]
struct ConfigLayers {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A name with a digest means that very manifest, whatever tag stands beside it.
fn lookup<'index>(
    index: &'index Index,
    wanted: &Reference,
) -> Option<(&'index String, &'index Image)> {
    match wanted.digest() {
        None => index.images.get_key_value(&wanted.to_string()),
        Some(digest) => index.images.iter().find(|(name, image)| {
            image.manifest == digest
                && Reference::parse(name).is_ok_and(|known| known.name() == wanted.name())
        }),
    }
}

fn hex(digest: &str) -> String {
    digest.trim_start_matches("sha256:").to_owned()
}

/// Half of the digest: still beyond collision by accident, and twice the layers fit a mount.
fn layer_name(diff_id: &str) -> String {
    hex(diff_id).chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sha(bytes: &[u8]) -> String {
        let mut hash = Sha256::new();
        hash.update(bytes);
        digest_text(hash)
    }

    fn layer(name: &str, body: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        builder.append_data(&mut header, name, body.as_bytes()).expect("a Vec takes bytes");
        builder.into_inner().expect("a Vec takes bytes")
    }

    /// An OCI layout with one image of one layer; returns the layer's digest.
    fn layout(directory: &Path, annotation: Option<&str>) -> String {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("the directory is ours");
        let put = |bytes: &[u8]| {
            let digest = sha(bytes);
            std::fs::write(blobs.join(hex(&digest)), bytes).expect("the directory is ours");
            digest
        };
        let layer = layer("hello", "world");
        let diff_id = put(&layer);
        let config = json!({
            "architecture": archive::architecture(), "os": "linux",
            "config": {"Cmd": ["/hello"], "Entrypoint": null, "User": "7"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        })
        .to_string();
        let config_digest = put(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "config": {"digest": config_digest, "size": config.len()},
            "layers": [{"digest": diff_id, "size": layer.len()}],
        })
        .to_string();
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": put(manifest.as_bytes()), "size": manifest.len(),
        });
        if let Some(name) = annotation {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        std::fs::write(directory.join("index.json"), index).expect("the directory is ours");
        diff_id
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let store = ImageStore::open(dir.path().join("images")).expect("opens");
        (dir, store)
    }

    #[test]
    fn a_layout_is_imported_run_by_its_name_and_removed() {
        let (dir, store) = store();
        let source = dir.path().join("layout");
        layout(&source, None);
        let unnamed = store.import(&source, None).expect_err("it has no name");
        assert!(unnamed.to_string().contains("NAME:TAG"), "{unnamed}");
        let imported = store.import(&source, Some("hello:1")).expect("is a good layout");
        assert_eq!(imported[0].name, "docker.io/library/hello:1");
        let reference = Reference::parse("hello:1").expect("a name");
        let image = store.find(&reference).expect("readable").expect("is there");
        let config = store.config(&image).expect("readable");
        assert_eq!((config.cmd, config.user.as_str()), (vec!["/hello".to_owned()], "7"));
        assert_eq!(store.read_file(&image, "hello").as_deref(), Some("world"));
        assert_eq!(store.list().expect("readable").len(), 3, "two are built in");

        let user = File::open(store.use_file(&image)).expect("is there");
        let held = Flock::lock(user, FlockArg::LockShared).expect("nobody else holds it");
        assert!(matches!(store.remove("hello:1"), Err(ImageError::InUse(_))));
        drop(held);
        store.remove("hello:1").expect("nobody uses it");
        assert!(matches!(store.remove("hello:1"), Err(ImageError::NotFound(_))));
        assert!(matches!(store.remove("testbox:v1"), Err(ImageError::BuiltIn(_))));
        let built_in = Reference::parse("testbox:v2").expect("a name");
        let image = store.find(&built_in).expect("readable").expect("built in");
        assert!(
            store.layers_dir().join(&store.layer_names(&image)[0]).join("bin/testbox").exists()
        );
    }

    #[test]
    fn an_archive_of_a_layout_carries_its_name() {
        let (dir, store) = store();
        let source = dir.path().join("layout");
        layout(&source, Some("registry.example:5000/team/hello:2"));
        let file = dir.path().join("image.tar.gz");
        let gzip = flate2::write::GzEncoder::new(
            File::create(&file).expect("the directory is ours"),
            flate2::Compression::fast(),
        );
        let mut builder = tar::Builder::new(gzip);
        builder.append_dir_all(".", &source).expect("packs");
        builder.into_inner().expect("packs").finish().expect("packs");
        let imported = store.import(&file, None).expect("is a good archive");
        assert_eq!(imported[0].name, "registry.example:5000/team/hello:2");
    }

    #[test]
    fn damage_is_found_and_leaves_nothing_named() {
        let (dir, store) = store();
        let source = dir.path().join("layout");
        let diff_id = layout(&source, Some("hello:3"));
        let blob = source.join("blobs/sha256").join(hex(&diff_id));
        std::fs::write(&blob, "something else").expect("the directory is ours");
        let error = store.import(&source, None).expect_err("a blob is not what it says");
        assert!(error.to_string().contains("has digest"), "{error}");
        std::fs::remove_file(&blob).expect("the directory is ours");
        let error = store.import(&source, None).expect_err("a blob is missing");
        assert!(error.to_string().contains("is missing"), "{error}");
        std::fs::write(dir.path().join("x"), "no archive").expect("the directory is ours");
        assert!(store.import(&dir.path().join("x"), Some("x:1")).is_err());
        assert!(store.import(&dir.path().join("absent"), Some("x:1")).is_err());
        assert_eq!(store.list().expect("readable").len(), 2);
    }
}
