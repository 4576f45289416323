//! A log file, and how it is kept from filling the disk.
//!
//! When the next line would make it too long, the file is put aside under its name and the time,
//! and a fresh one begun. Old files beyond the number or the age that is kept are removed, and
//! compressed before that if wanted: on a thread of its own, for gzip takes seconds. Names are
//! those of the Go library that etcd uses, so that scripts which collect old files find ours.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use crate::config::Rotation;

/// An open log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
}

impl LogFile {
    /// Opens a file to append to it.
    pub(super) fn open(path: PathBuf, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, rotation })
    }

    /// Appends a line, to a fresh file if this one is full.
    pub(super) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(rotation) = self.rotation {
            let most = rotation.megabytes.saturating_mul(1 << 20);
            if self.bytes > 0 && self.bytes + length > most {
                // A file that cannot be put aside grows on, rather than that lines are lost.
                let _ = self.rotate(rotation, OffsetDateTime::now_utc());
            }
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self, rotation: Rotation, now: OffsetDateTime) -> io::Result<()> {
        std::fs::rename(&self.path, aside(&self.path, now))?;
        let fresh = Self::open(self.path.clone(), self.rotation)?;
        *self = fresh;
        let path = self.path.clone();
        let tidy = std::thread::Builder::new().name("log-rotation".to_owned());
        // What cannot be tidied now is looked at again after the next file.
        tidy.spawn(move || drop(tidy_up(&path, rotation))).map(drop)
    }
}

/// `name-2026-01-02T03-04-05.678.ext`.
fn aside(path: &Path, now: OffsetDateTime) -> PathBuf {
    let (stem, extension) = parts(path);
    let time = format!(
        "{:04}-{:02}-{:02}T{:02}-{:02}-{:02}.{:03}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.millisecond()
    );
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

/// The name up to its last point, and the rest with the point.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(at) => (name[..at].to_owned(), name[at..].to_owned()),
        None => (name, String::new()),
    }
}

/// Removes what is too many or too old, and compresses the rest if wanted.
fn tidy_up(path: &Path, rotation: Rotation) -> io::Result<()> {
    let mut old = put_aside(path)?;
    // Names tell the time: the newest first.
    old.sort_by(|one, other| other.cmp(one));
    let keep = if rotation.files == 0 { old.len() } else { rotation.files.min(old.len()) };
    for file in old.split_off(keep) {
        std::fs::remove_file(file)?;
    }
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let age = DAY.saturating_mul(u32::try_from(rotation.days).unwrap_or(u32::MAX));
    for file in old {
        let written = file.metadata()?.modified()?;
        let too_old = SystemTime::now().duration_since(written).is_ok_and(|since| since > age);
        if rotation.days > 0 && too_old {
            std::fs::remove_file(&file)?;
        } else if rotation.compress && file.extension().is_none_or(|extension| extension != "gz") {
            compress(&file)?;
        }
    }
    Ok(())
}

/// The files that were put aside before.
fn put_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (stem, extension) = parts(path);
    let mut old = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain
            .strip_prefix(&stem)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(&extension));
        if time.is_some_and(is_time) {
            old.push(folder.join(name));
        }
    }
    Ok(old)
}

/// Whether a text has the shape of the time in a name, so that no foreign file is touched.
fn is_time(text: &str) -> bool {
    const SHAPE: &str = "0000-00-00T00-00-00.000";
    text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE.bytes()).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            shape => byte == shape,
        })
}

/// Puts a compressed file in a file's place.
fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let packed =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&name)?;
    let mut packer = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
    let copied = File::open(path).and_then(|mut plain| io::copy(&mut plain, &mut packer));
    if let Err(error) = copied.and_then(|_| packer.finish()) {
        std::fs::remove_file(&name)?;
        return Err(error);
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("the folder is there");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_is_put_aside_by_the_time() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("store.log");
        let rotation = Rotation { megabytes: 1, ..Rotation::default() };
        let mut log = LogFile::open(path.clone(), Some(rotation)).expect("opened");
        let line = vec![b'x'; 300 * 1024];
        for _ in 0..4 {
            log.write_line(&line).expect("written");
        }
        let names = names(dir.path());
        assert_eq!(names.len(), 2, "{names:?}");
        let time = names[0].strip_prefix("store-").and_then(|name| name.strip_suffix(".log"));
        assert!(time.is_some_and(is_time), "{names:?}");
        assert_eq!(std::fs::metadata(&path).expect("a file").len(), 300 * 1024);
        // A line longer than a whole file is still written.
        log.write_line(&vec![b'y'; 2 << 20]).expect("written");
        // Appending goes on where it stopped.
        let log = LogFile::open(path, None).expect("opened");
        assert_eq!(log.bytes, 2 << 20);
    }

    #[test]
    fn only_old_files_of_ours_are_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("a.log");
        let old = |second: u8| format!("a-2026-01-01T00-00-{second:02}.000.log");
        for name in [&old(1), &old(2), &old(3), "a.log", "a-b.log", "a-2026.log", "other"] {
            std::fs::write(dir.path().join(name), "text").expect("written");
        }
        let rotation = Rotation { files: 2, compress: true, ..Rotation::default() };
        tidy_up(&path, rotation).expect("tidied");
        let packed = |second| format!("{}.gz", old(second));
        let left = [&packed(2), &packed(3), "a-2026.log", "a-b.log", "a.log", "other"];
        let mut left = left.map(str::to_owned).to_vec();
        left.sort();
        assert_eq!(names(dir.path()), left);
        // Again: nothing is compressed twice.
        tidy_up(&path, rotation).expect("tidied");
        assert_eq!(names(dir.path()), left);
        let ago = SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
        let file = File::options().write(true).open(dir.path().join(packed(2))).expect("opened");
        file.set_modified(ago).expect("set");
        tidy_up(&path, Rotation { days: 2, ..rotation }).expect("tidied");
        assert_eq!(names(dir.path()).len(), left.len() - 1);
    }
}
