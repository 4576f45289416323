//! Reading images from files: OCI layouts, OCI archives, and `docker save` archives.
//!
//! An archive is first spread into the store's staging directory, every name checked, and then read
//! as a directory. Blobs are copied into the store with their digests verified on the way.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::store::{ImageError, ImageStore, disk, invalid};
use super::unpack::{HashingReader, decompressed, digest_text, inside};

/// An image found in a file: its name, and the digest of its manifest, which with all its parts is
/// now among the blobs.
pub(super) struct Found {
    pub(super) name: Reference,
    pub(super) manifest: String,
}

/// Entries of an archive beyond this many are refused.
const ENTRIES_MAX: usize = 10_000;
/// Indexes inside indexes deeper than this are refused.
const DEPTH_MAX: usize = 4;

/// Reads every image of `path` into the blobs of `store`.
pub(super) fn read(
    store: &ImageStore,
    path: &Path,
    name: Option<Reference>,
) -> Result<Vec<Found>, ImageError> {
    let metadata =
        std::fs::metadata(path).map_err(|error| invalid(path, format!("cannot read: {error}")))?;
    let directory = if metadata.is_dir() {
        path.to_owned()
    } else {
        let spread = store.staging().join("archive");
        spread_archive(path, &spread)
            .map_err(|error| invalid(path, format!("not a readable image archive: {error}")))?;
        spread
    };
    // `docker save` writes both forms now; the OCI one carries the digests.
    let found = if directory.join("index.json").is_file() {
        read_layout(store, path, &directory, name)?
    } else if directory.join("manifest.json").is_file() {
        read_docker(store, path, &directory, name)?
    } else {
        return Err(invalid(
            path,
            "holds neither index.json (OCI) nor manifest.json (docker save)",
        ));
    };
    if found.is_empty() {
        return Err(invalid(path, "holds no image for this machine's architecture"));
    }
    Ok(found)
}

fn spread_archive(path: &Path, target: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(decompressed(path)?);
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        if count >= ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some(relative) = inside(&entry.path()?)? else { continue };
        let file = target.join(relative);
        std::fs::create_dir_all(file.parent().unwrap_or(target))?;
        io::copy(&mut entry, &mut File::create(file)?)?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct OciIndex {
    manifests: Vec<OciDescriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

fn read_layout(
    store: &ImageStore,
    origin: &Path,
    directory: &Path,
    name: Option<Reference>,
) -> Result<Vec<Found>, ImageError> {
    let text = std::fs::read(directory.join("index.json"))
        .map_err(|error| invalid(origin, error.to_string()))?;
    let index: OciIndex = serde_json::from_slice(&text)
        .map_err(|error| invalid(origin, format!("index.json: {error}")))?;
    let several = index.manifests.iter().filter(|entry| fits(entry)).count() > 1;
    if several && name.is_some() {
        return Err(invalid(origin, "holds several images; one name cannot be given to all"));
    }
    let mut found = Vec::new();
    for entry in index.manifests {
        let name = match &name {
            Some(name) => name.clone(),
            None => annotated_name(origin, &entry)?,
        };
        if let Some(manifest) = resolve(store, origin, directory, entry, 0)? {
            found.push(Found { name, manifest });
        }
    }
    Ok(found)
}

/// The name that containerd or the OCI layout specification has for an entry.
fn annotated_name(origin: &Path, entry: &OciDescriptor) -> Result<Reference, ImageError> {
    let named = entry
        .annotations
        .get("io.containerd.image.name")
        .or_else(|| entry.annotations.get("org.opencontainers.image.ref.name"));
    match named {
        // Many tools write only the tag there ("latest"), which names no image.
        Some(name) if name.contains([':', '/']) => Ok(Reference::parse(name)?),
        _ => Err(invalid(origin, "does not say the image's name; give one (NAME:TAG)")),
    }
}

/// Follows an entry down to the manifest for this machine and takes in all its blobs.
fn resolve(
    store: &ImageStore,
    origin: &Path,
    directory: &Path,
    entry: OciDescriptor,
    depth: usize,
) -> Result<Option<String>, ImageError> {
    if !fits(&entry) {
        return Ok(None);
    }
    if depth > DEPTH_MAX {
        return Err(invalid(origin, "indexes inside indexes go too deep"));
    }
    take(store, origin, directory, &entry.digest)?;
    let document: serde_json::Value = serde_json::from_slice(&store.document(&entry.digest)?)
        .map_err(|error| invalid(origin, format!("{}: {error}", entry.digest)))?;
    if entry.media_type.contains("index")
        || entry.media_type.contains("manifest.list")
        || document.get("manifests").is_some()
    {
        let nested: OciIndex = serde_json::from_value(document)
            .map_err(|error| invalid(origin, format!("{}: {error}", entry.digest)))?;
        for inner in nested.manifests {
            if let Some(manifest) = resolve(store, origin, directory, inner, depth + 1)? {
                return Ok(Some(manifest));
            }
        }
        return Ok(None);
    }
    let parts = [document.get("config")]
        .into_iter()
        .flatten()
        .chain(document.get("layers").and_then(|layers| layers.as_array()).into_iter().flatten());
    for part in parts {
        let digest = part.get("digest").and_then(|digest| digest.as_str()).unwrap_or_default();
        take(store, origin, directory, digest)?;
    }
    Ok(Some(entry.digest))
}

fn take(
    store: &ImageStore,
    origin: &Path,
    directory: &Path,
    digest: &str,
) -> Result<(), ImageError> {
    if !super::reference::valid_digest(digest) {
        return Err(invalid(origin, format!("{digest:?} is not a sha256 digest")));
    }
    let file = directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let source = File::open(&file)
        .map_err(|error| invalid(origin, format!("blob {digest} is missing: {error}")))?;
    store.add_blob(source, digest)
}

/// Whether an entry can run here; one without a platform is taken at its word.
fn fits(entry: &OciDescriptor) -> bool {
    entry
        .platform
        .as_ref()
        .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
}

/// This machine in OCI's words.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

/// `docker save` names files instead of digests; this writes the manifest such an image never had.
fn read_docker(
    store: &ImageStore,
    origin: &Path,
    directory: &Path,
    name: Option<Reference>,
) -> Result<Vec<Found>, ImageError> {
    let text = std::fs::read(directory.join("manifest.json"))
        .map_err(|error| invalid(origin, error.to_string()))?;
    let entries: Vec<DockerEntry> = serde_json::from_slice(&text)
        .map_err(|error| invalid(origin, format!("manifest.json: {error}")))?;
    if entries.len() > 1 && name.is_some() {
        return Err(invalid(origin, "holds several images; one name cannot be given to all"));
    }
    let mut found = Vec::new();
    for entry in entries {
        let config = take_file(store, origin, directory, &entry.config)?;
        let mut layers = Vec::new();
        for layer in &entry.layers {
            let (digest, size) = take_file(store, origin, directory, layer)?;
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest, "size": size,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0, "size": config.1,
            },
            "layers": layers,
        });
        let manifest = add_document(store, manifest.to_string().as_bytes())?;
        let names = match &name {
            Some(name) => vec![name.clone()],
            None => entry
                .repo_tags
                .unwrap_or_default()
                .iter()
                .map(|tag| Reference::parse(tag))
                .collect::<Result<_, _>>()?,
        };
        if names.is_empty() {
            return Err(invalid(origin, "does not say the image's name; give one (NAME:TAG)"));
        }
        found.extend(names.into_iter().map(|name| Found { name, manifest: manifest.clone() }));
    }
    Ok(found)
}

/// Takes in a file whose digest nobody stated; returns digest and size.
fn take_file(
    store: &ImageStore,
    origin: &Path,
    directory: &Path,
    relative: &Path,
) -> Result<(String, u64), ImageError> {
    let refuse = |error: io::Error| invalid(origin, format!("{}: {error}", relative.display()));
    let relative = inside(relative).map_err(refuse)?.unwrap_or_default();
    let path = directory.join(&relative);
    let mut reader =
        HashingReader { inner: File::open(&path).map_err(refuse)?, hash: Sha256::new() };
    let size = io::copy(&mut reader, &mut io::sink()).map_err(refuse)?;
    let digest = digest_text(reader.hash);
    store.add_blob(File::open(&path).map_err(refuse)?, &digest)?;
    Ok((digest, size))
}

/// Adds a small blob made here; returns its digest.
pub(super) fn add_document(store: &ImageStore, bytes: &[u8]) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    hash.update(bytes);
    let digest = digest_text(hash);
    std::fs::create_dir_all(store.staging()).map_err(disk("staging"))?;
    store.add_blob(bytes, &digest)?;
    Ok(digest)
}
