//! A disk that is memory and nothing else: `--storage memory`.
//!
//! The same log and the same engine run on it, so a volatile store behaves like a durable one until
//! it ends, and then leaves nothing behind. Unlike [`super::memory`] it models no power cut and
//! injects no fault: it only keeps bytes, in chunks, so that a file grows without being copied. A
//! chunk that was never written to, or with zeros only, takes no memory; the log fills its segments
//! with zeros before it uses them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::disk::{Disk, File};

const CHUNK: usize = 64 << 10;

/// A directory in memory. Clones share it.
#[derive(Clone, Default)]
pub struct VolatileDisk {
    files: Arc<Mutex<BTreeMap<String, Arc<VolatileFile>>>>,
}

impl VolatileDisk {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<VolatileFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for VolatileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = Arc::new(VolatileFile::default());
        self.files().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.files().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let file = self.files().remove(name);
        file.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("(memory) {name}")
    }
}

/// One file. A chunk that is absent is full of zeros.
#[derive(Default)]
struct VolatileFile(RwLock<Contents>);

#[derive(Default)]
struct Contents {
    len: u64,
    chunks: Vec<Option<Box<[u8]>>>,
}

impl Contents {
    fn resize(&mut self, len: u64) -> io::Result<()> {
        let chunks = len.div_ceil(CHUNK as u64);
        let chunks = usize::try_from(chunks).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.chunks.resize(chunks, None);
        let kept = usize::try_from(len % CHUNK as u64).expect("less than a chunk");
        // What lies beyond the end must be zero if the file grows again.
        if len < self.len
            && kept > 0
            && let Some(Some(last)) = self.chunks.last_mut()
        {
            last[kept..].fill(0);
        }
        self.len = len;
        Ok(())
    }
}

/// The chunk, the place in it, and how much of `left` bytes it takes.
fn place(offset: u64, left: usize) -> io::Result<(usize, usize, usize)> {
    let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let within = offset % CHUNK;
    Ok((offset / CHUNK, within, left.min(CHUNK - within)))
}

impl File for VolatileFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let contents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let there = usize::try_from(contents.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = into.len().min(there);
        let mut done = 0;
        while done < wanted {
            let (chunk, within, count) = place(offset + done as u64, wanted - done)?;
            let into = &mut into[done..done + count];
            match &contents.chunks[chunk] {
                Some(bytes) => into.copy_from_slice(&bytes[within..within + count]),
                None => into.fill(0),
            }
            done += count;
        }
        Ok(wanted)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let end = offset + bytes.len() as u64;
        if end > contents.len {
            contents.resize(end)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            let (chunk, within, count) = place(offset + done as u64, bytes.len() - done)?;
            let from = &bytes[done..done + count];
            let into = &mut contents.chunks[chunk];
            if into.is_some() || from.iter().any(|byte| *byte != 0) {
                let into = into.get_or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
                into[within..within + count].copy_from_slice(from);
            }
            done += count;
        }
        Ok(())
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).resize(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file keeps what was written and nothing else, across chunks, shrinking and growing.
    #[test]
    fn a_file_is_the_bytes_written_to_it() {
        let disk = VolatileDisk::default();
        let file = disk.create("a").unwrap();
        let mut plain: Vec<u8> = Vec::new();
        let mut seed = 1_u64;
        for step in 0..400_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % (4 * CHUNK);
            let bytes = vec![u8::try_from(step % 251).unwrap(); at % 9_000];
            if step % 7 == 0 {
                plain.resize(at, 0);
                file.set_size(at as u64).unwrap();
            } else {
                plain.resize(plain.len().max(at + bytes.len()), 0);
                plain[at..at + bytes.len()].copy_from_slice(&bytes);
                file.write_at(at as u64, &bytes).unwrap();
            }
            let mut found = vec![1; plain.len() + 10];
            assert_eq!(file.read_at(0, &mut found).unwrap(), plain.len());
            assert_eq!(file.size().unwrap(), plain.len() as u64);
            assert!(found[..plain.len()] == plain[..], "step {step}");
        }
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert!(disk.open("a").is_err());
        disk.remove("b").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn zeros_take_no_memory() {
        let file = VolatileFile::default();
        file.write_at(0, &vec![0; 4 * CHUNK]).unwrap();
        file.write_at(CHUNK as u64 + 5, b"x").unwrap();
        let kept = |contents: &Contents| contents.chunks.iter().flatten().count();
        assert_eq!(kept(&file.0.read().unwrap()), 1);
    }
}
