//! A disk in memory that can lose what was not synced, and can break.
//!
//! Writes go to a live image, which a process reads back, and to a list of pending ones. A sync
//! makes them all safe. A power cut keeps a random part of the pending writes, some of them torn,
//! and loses the rest, as real disks do.

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::{BackendError, StorageBackend};

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Image>>);

#[derive(Debug, Default)]
struct Image {
    live: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Write>,
    /// Writes and syncs left before every one fails.
    fuse: Option<usize>,
}

#[derive(Debug, Clone)]
enum Write {
    Data(usize, Vec<u8>),
    Length(usize),
}

impl Write {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Data(offset, data) => {
                if image.len() < offset + data.len() {
                    image.resize(offset + data.len(), 0);
                }
                image[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    /// What a power cut leaves, as a disk of its own. `random` decides the fate of each pending
    /// write.
    pub(crate) fn after_power_cut(&self, mut random: impl FnMut() -> u8) -> Self {
        let image = self.0.lock().unwrap();
        let mut left = image.synced.clone();
        for write in &image.pending {
            match (random() % 4, write) {
                (0, _) => {}
                (1, Write::Data(offset, data)) => {
                    let kept = data.len() * usize::from(random()) / 256;
                    Write::Data(*offset, data[..kept].to_vec()).apply(&mut left);
                }
                (_, write) => write.apply(&mut left),
            }
        }
        Self(Arc::new(Mutex::new(Image { live: left.clone(), synced: left, ..Image::default() })))
    }

    /// The same contents without the fuse, as after a reboot.
    pub(crate) fn repaired(&self) -> Self {
        let live = self.0.lock().unwrap().live.clone();
        Self(Arc::new(Mutex::new(Image { synced: live.clone(), live, ..Image::default() })))
    }

    /// Lets a number of writes and syncs through, then fails all.
    pub(crate) fn break_after(&self, operations: usize) {
        self.0.lock().unwrap().fuse = Some(operations);
    }
}

impl Image {
    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the disk is broken")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, write: Write) -> io::Result<()> {
        self.burn()?;
        write.apply(&mut self.live);
        self.pending.push(write);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let data = image.live.get(offset..offset + out.len());
        out.copy_from_slice(data.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().write(Write::Length(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.lock().unwrap();
        image.burn()?;
        let Image { synced, pending, .. } = &mut *image;
        pending.drain(..).for_each(|write| write.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = Write::Data(usize::try_from(offset).unwrap(), data.to_vec());
        self.0.lock().unwrap().write(write)
    }

    // One process has one disk: locks always succeed.
    fn try_lock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(
        &self,
        _: std::ops::Bound<u64>,
        _: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        Ok(false)
    }
}
