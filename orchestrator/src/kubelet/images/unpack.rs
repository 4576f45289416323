//! Turning a layer, a tar stream of changes, into an overlay lower directory.
//!
//! A layer says "deleted" by files named `.wh.<name>` and "forget what lay below this directory" by
//! `.wh..wh..opq`. Overlayfs says the same by a character device 0:0 and by an extended attribute.
//! A layer is input from strangers: a name that climbs out of the directory, straight or through a
//! symbolic link, is refused, and so is a device node.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use sha2::{Digest, Sha256};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Overlayfs reads it on a directory as "nothing below shows through".
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// A layer larger than this is refused: a compressed bomb must not fill the disk.
const UNPACKED_BYTES_MAX: u64 = 64 << 30;

/// Unpacks the layer in `blob` into `target` and returns its diff id: the digest of the
/// uncompressed tar stream.
pub(super) fn unpack_layer(blob: &Path, target: &Path) -> io::Result<String> {
    let mut stream = HashingReader { inner: decompressed(blob)?, hash: Sha256::new() };
    let mut archive = tar::Archive::new(&mut stream);
    archive.set_preserve_permissions(true);
    // Only root can give files away; an unprivileged import serves inspection and tests.
    archive.set_preserve_ownerships(nix::unistd::geteuid().is_root());
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    let root = target.canonicalize()?;
    let mut unpacked = 0_u64;
    // Directories get their times last: unpacking their content would change them.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        unpacked = unpacked.saturating_add(entry.size());
        if unpacked > UNPACKED_BYTES_MAX {
            return Err(io::Error::other("the layer unpacks to more than 64 GiB"));
        }
        let path = entry.path()?.into_owned();
        let Some(relative) = inside(&path)? else { continue };
        if let Some(name) = relative.file_name().and_then(|name| name.to_str())
            && name.starts_with(WHITEOUT)
        {
            whiteout(&root, &relative, name)?;
            continue;
        }
        match entry.header().entry_type() {
            kind if kind.is_block_special() || kind.is_character_special() => {
                return Err(io::Error::other(format!(
                    "{}: device nodes are refused",
                    path.display()
                )));
            }
            kind if kind.is_dir() => {
                let seconds = entry.header().mtime().unwrap_or(0);
                directories.push((root.join(&relative), seconds));
            }
            _ => {}
        }
        if !entry.unpack_in(&root)? {
            return Err(io::Error::other(format!("{}: leaves the layer", path.display())));
        }
    }
    restore_times(directories);
    // The digest covers the whole stream, padding after the end marker included.
    io::copy(&mut stream, &mut io::sink())?;
    Ok(digest_text(stream.hash))
}

/// `path` without its leading `./` and `/`; `None` for the root itself; an error for `..`.
pub(super) fn inside(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("{}: leaves the archive", path.display())));
            }
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

/// Writes overlayfs's form of one whiteout entry.
fn whiteout(root: &Path, relative: &Path, name: &str) -> io::Result<()> {
    let parent = root.join(relative.parent().unwrap_or_else(|| Path::new("")));
    std::fs::create_dir_all(&parent)?;
    // A symbolic link unpacked earlier must not lead the deletion elsewhere.
    if !parent.canonicalize()?.starts_with(root) {
        return Err(io::Error::other(format!("{}: leaves the layer", relative.display())));
    }
    if name == OPAQUE {
        return xattr::set(&parent, OPAQUE_ATTRIBUTE, b"y");
    }
    let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::Error::other(format!("{}: deletes nothing", relative.display())));
    }
    let device = parent.join(hidden);
    match mknod(&device, SFlag::S_IFCHR, Mode::empty(), 0) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn restore_times(directories: Vec<(PathBuf, u64)>) {
    // Best effort and deepest first: a wrong time on a directory breaks nobody.
    for (path, seconds) in directories.into_iter().rev() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        if let Ok(directory) = File::open(&path) {
            let _ = directory.set_modified(time);
        }
    }
}

/// A reader over `path` with gzip taken off, chosen by the first bytes rather than by what the
/// manifest claims.
pub(super) fn decompressed(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = [0_u8; 4];
    let length = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let buffered = BufReader::with_capacity(256 << 10, file);
    match &magic[..length] {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(buffered))),
        [0x28, 0xb5, 0x2f, 0xfd] => Err(io::Error::other("zstd layers are not supported yet")),
        _ => Ok(Box::new(buffered)),
    }
}

pub(super) fn digest_text(hash: Sha256) -> String {
    let mut text = String::from("sha256:");
    for byte in hash.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Passes a stream through while hashing it.
pub(super) struct HashingReader<R> {
    pub(super) inner: R,
    pub(super) hash: Sha256,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, body) in entries {
            let mut header = tar::Header::new_gnu();
            // Written raw: the builder itself refuses the names this test is about.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_cksum();
            builder.append(&header, body.as_bytes()).expect("a Vec takes bytes");
        }
        builder.into_inner().expect("a Vec takes bytes")
    }

    fn unpack(bytes: &[u8]) -> (tempfile::TempDir, io::Result<String>) {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let (blob, target) = (dir.path().join("blob"), dir.path().join("target"));
        std::fs::write(&blob, bytes).expect("the blob is ours");
        std::fs::create_dir(&target).expect("the target is ours");
        let outcome = unpack_layer(&blob, &target);
        (dir, outcome)
    }

    #[test]
    fn climbing_names_are_refused() {
        for name in ["../evil", "a/../../evil", "a/.wh..", "a/.wh..."] {
            let (dir, outcome) = unpack(&layer(&[(name, "x")]));
            assert!(outcome.is_err(), "{name} was taken");
            assert!(!dir.path().join("evil").exists());
        }
    }

    #[test]
    fn absolute_names_stay_inside() {
        let (dir, outcome) = unpack(&layer(&[("/etc/a", "x"), ("./b", "y")]));
        outcome.expect("the layer is good");
        assert!(dir.path().join("target/etc/a").exists() && dir.path().join("target/b").exists());
    }

    #[test]
    fn whiteouts_become_devices_and_opaque_marks() {
        if !::tests::root("images::unpack::whiteouts_become_devices_and_opaque_marks") {
            return;
        }
        let (dir, outcome) =
            unpack(&layer(&[("d/.wh.gone", ""), ("d/kept", "k"), ("o/.wh..wh..opq", "")]));
        outcome.expect("the layer is good");
        let device = std::fs::symlink_metadata(dir.path().join("target/d/gone")).expect("made");
        assert!(device.file_type().is_char_device());
        assert_eq!(device.rdev(), 0);
        let mark = xattr::get(dir.path().join("target/o"), OPAQUE_ATTRIBUTE).expect("readable");
        assert_eq!(mark.as_deref(), Some(&b"y"[..]));
    }

    #[test]
    fn the_diff_id_is_that_of_the_plain_stream() {
        let plain = layer(&[("a", "hello")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).expect("a Vec takes bytes");
        let packed = gzip.finish().expect("a Vec takes bytes");
        let (_one, first) = unpack(&plain);
        let (_two, second) = unpack(&packed);
        let mut hash = Sha256::new();
        hash.update(&plain);
        assert_eq!(first.expect("good"), digest_text(hash.clone()));
        assert_eq!(second.expect("good"), digest_text(hash));
    }
}
