//! The log's disk in memory, which loses power and breaks, and the database on it laid open.

use std::{
    io,
    ops::Bound,
    sync::{Arc, Mutex},
};

use redb::{BackendError, Database, StorageBackend};
pub(crate) use store::wal::memory::{Fault as DiskFault, MemoryDisk as Disk};

const DATABASE: &str = "state.redb";

/// A disk without surprises.
pub(crate) fn healthy() -> Disk {
    Disk::new(1)
}

/// Looks at the database, or changes it, as nobody but its engine should.
pub(crate) fn with_database<T>(disk: &Disk, act: impl FnOnce(&Database) -> T) -> T {
    let image = Image(Arc::new(Mutex::new(disk.bytes(DATABASE))));
    let database = redb::Builder::new().create_with_backend(image.clone()).unwrap();
    let result = act(&database);
    drop(database);
    disk.replace(DATABASE, std::mem::take(&mut image.0.lock().unwrap()));
    result
}

#[derive(Clone)]
struct Image(Arc<Mutex<Vec<u8>>>);

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Image")
    }
}

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(false)
    }
}
