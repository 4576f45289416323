//! The built-in `testbox` image, so that a machine without internet can run something.
//!
//! The program is compiled by `build.rs` and embedded. Both tags hold one layer; only the
//! environment in their configurations differs, which is what a rolling update needs to be seen.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::archive::{add_document, architecture};
use super::reference::Reference;
use super::store::{ImageError, ImageStore, disk};
use super::unpack::digest_text;

static TESTBOX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/testbox"));

const TAGS: [&str; 2] = ["v1", "v2"];
const PASSWD: &str = "root:x:0:0:root:/:/bin/testbox\nnobody:x:65534:65534:nobody:/:/bin/testbox\n";
const GROUP: &str = "root:x:0:\nnobody:x:65534:\n";

/// Whether the name is one of the built-in images.
pub(super) fn holds(reference: &Reference) -> bool {
    reference.name() == "docker.io/library/testbox"
        && reference.tag().is_some_and(|tag| TAGS.contains(&tag))
}

/// Brings the built-in images in, unless this very version of them is there.
pub(super) fn ensure(store: &ImageStore) -> Result<(), ImageError> {
    let mark = store.mark("testbox.version");
    let version = {
        let mut hash = Sha256::new();
        hash.update(TESTBOX);
        hash.update(PASSWD);
        digest_text(hash)
    };
    let references: Vec<Reference> = TAGS
        .iter()
        .map(|tag| Reference::parse(&format!("testbox:{tag}")))
        .collect::<Result<_, _>>()?;
    let known = std::fs::read_to_string(&mark).is_ok_and(|text| text == version);
    if known && references.iter().all(|name| matches!(store.find(name), Ok(Some(_)))) {
        return Ok(());
    }
    let _lock = store.lock()?;
    store.clear_staging()?;
    let layer_bytes = layer().map_err(disk("packing the built-in image"))?;
    let layer = add_document(store, &layer_bytes)?;
    for (tag, reference) in TAGS.iter().zip(&references) {
        let config = config(tag, &layer).to_string();
        let config_digest = add_document(store, config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer, "size": layer_bytes.len(),
            }],
        });
        let digest = add_document(store, manifest.to_string().as_bytes())?;
        let image = store.install(std::path::Path::new("built-in testbox"), &digest)?;
        store.name_image(reference, image)?;
    }
    std::fs::write(&mark, version).map_err(disk(mark.display().to_string()))
}

fn config(tag: &str, layer: &str) -> serde_json::Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin", format!("TESTBOX_VERSION={tag}")],
            "Entrypoint": ["/bin/testbox"],
            "Cmd": ["http"],
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    })
}

fn layer() -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        let mut header = entry(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        builder.append_data(&mut header, name, std::io::empty())?;
    }
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/testbox", 0o755, TESTBOX),
        ("etc/passwd", 0o644, PASSWD.as_bytes()),
        ("etc/group", 0o644, GROUP.as_bytes()),
    ];
    for (name, mode, content) in files {
        builder.append_data(&mut entry(mode, content.len() as u64), name, content)?;
    }
    builder.into_inner()
}

/// A header that is the same on every build: owner root, a fixed time.
fn entry(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}
