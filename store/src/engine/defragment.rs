//! Giving space back to the disk, while the store serves.
//!
//! redb never shrinks its file: pages of removed rows are used again, not returned. So the database
//! is copied, in order and without gaps, into a new file, which then takes its place.
//!
//! ```text
//! old file  ──checkpoints────────────────────────────▶│ last step
//! new file      [ copy of all ][ round ][ r ]──────────┤ rename ──checkpoints──▶
//! removal   ─────┤ paused                              ├──▶
//! ```
//!
//! Checkpoints go on into the old file, and the copy catches up: since nothing is removed
//! meanwhile, all that changed is told by the versions that `hist` has gained, and the few small
//! tables are copied anew in each round. When little is left, the checkpoint thread is held for the
//! last round; then the copy is synced, renamed over the old file, and used from then on. Writes go
//! into memtables all the time and never notice.
//!
//! A crash before the rename is durable finds the old file, complete, and the copy is removed at
//! the next start; after it the new one, just as complete. If the rename cannot be made durable the
//! engine stops, for a restart might find either.

use std::{collections::BTreeSet, ops::Bound, sync::Arc, time::Instant};

use redb::{
    Key, ReadTransaction, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, TableError, TableHandle as _, Value, WriteTransaction,
};

use super::{
    backend::{Home, Store},
    base::{ALARM, AUTH_ROLE, AUTH_USER, Base, COUNT, CUR, HIST, LEASE, LEASE_KEYS, MEMBER, META},
    meta,
    record::{hist_key, read_hist, read_hist_key},
    shared::Shared,
};
use crate::{
    command::Revision,
    fault::Fault,
    limits::{DEFRAGMENT_LAST_VERSIONS, DEFRAGMENT_ROUNDS_MAX, DEFRAGMENT_STEP_ROWS},
    machine::rows::Version,
};

/// Copies the database and moves to the copy.
pub(super) fn run(shared: &Shared, home: &Home) -> Result<(), Fault> {
    let result = copy(shared, home).map_err(|fault| {
        // The old file is untouched, and the store goes on with it.
        let discarded = home.discard_copy();
        discarded.err().unwrap_or(fault)
    });
    let adopted = result.map(|copy| adopt(shared, home, copy));
    match adopted {
        Ok(Ok(())) => {
            shared.release(None);
            Ok(())
        }
        Ok(Err(fatal)) => {
            shared.release(Some(fatal.clone()));
            Err(fatal)
        }
        Err(fault) => {
            shared.release(None);
            Err(fault)
        }
    }
}

/// Makes a complete copy; on return the checkpoint thread is held.
fn copy<'a>(shared: &'a Shared, home: &Home) -> Result<Copy<'a>, Fault> {
    let from = shared.keep()?;
    let to = home.copy()?;
    let mut copy =
        Copy { shared, from, to, upto: Revision(0), hurry: false, rows: 0, since: Instant::now() };
    copy.everything()?;
    for _ in 0..DEFRAGMENT_ROUNDS_MAX {
        if copy.behind()? <= DEFRAGMENT_LAST_VERSIONS {
            break;
        }
        copy.catch_up()?;
    }
    shared.hold()?;
    copy.hurry = true;
    copy.to.pace.hurry(true);
    copy.catch_up()?;
    copy.check()?;
    Ok(copy)
}

fn adopt(shared: &Shared, home: &Home, copy: Copy<'_>) -> Result<(), Fault> {
    home.adopt_copy()?;
    let base = Base::open(&copy.to, copy.upto)?;
    shared.move_to(copy.to, base);
    Ok(())
}

struct Copy<'a> {
    shared: &'a Shared,
    from: Arc<Store>,
    to: Arc<Store>,
    /// The newest revision that is copied.
    upto: Revision,
    /// The checkpoint thread waits.
    hurry: bool,
    rows: usize,
    /// When the present step began.
    since: Instant,
}

impl Copy<'_> {
    /// Copies all there is, in one transaction: that leaves no gaps.
    fn everything(&mut self) -> Result<(), Fault> {
        let read = self.from.database.begin_read()?;
        let write = begin(&self.to)?;
        let mut copied = self.small_tables(&read, &write)?;
        copied.insert(self.table(&read, &write, CUR)?);
        copied.insert(self.table(&read, &write, HIST)?);
        for table in read.list_tables()? {
            if !copied.contains(table.name()) {
                let unknown = format!("the database has a table `{}`, unknown here", table.name());
                return Err(Fault::Damaged(unknown));
            }
        }
        self.upto = meta::revision(&read)?;
        Ok(write.commit()?)
    }

    /// Copies what has changed since, as the history tells.
    fn catch_up(&mut self) -> Result<(), Fault> {
        let read = self.from.database.begin_read()?;
        let write = begin(&self.to)?;
        let first = hist_key(Version { main: self.upto.next(), sub: 0 });
        let mut rows = read
            .open_table(HIST)?
            .range::<&[u8; 12]>((Bound::Included(&first), Bound::Unbounded))?;
        loop {
            let keys = self.some_history(&mut rows, &write)?;
            if keys.is_empty() {
                break;
            }
            let (from, mut to) = (read.open_table(CUR)?, write.open_table(CUR)?);
            for key in keys {
                let row = from
                    .get(&key[..])?
                    .ok_or_else(|| Fault::Damaged("a key of the history is nowhere else".into()))?;
                to.insert(&key[..], row.value())?;
                self.step()?;
            }
        }
        self.small_tables(&read, &write)?;
        write.commit()?;
        self.upto = meta::revision(&read)?;
        Ok(())
    }

    /// Copies a bounded piece of the history and gives the keys it was about, sorted.
    fn some_history(
        &mut self,
        rows: &mut redb::Range<'_, &'static [u8; 12], &'static [u8]>,
        write: &WriteTransaction,
    ) -> Result<BTreeSet<Vec<u8>>, Fault> {
        let mut keys = BTreeSet::new();
        let mut hist = write.open_table(HIST)?;
        let mut end = hist.upper_bound_mut(Bound::<&[u8; 12]>::Unbounded)?;
        for row in rows.take(20 * DEFRAGMENT_STEP_ROWS) {
            let (at, row) = row?;
            end.insert_before(at.value(), row.value())?;
            keys.insert(read_hist(read_hist_key(at.value()), row.value())?.key.to_vec());
            self.step()?;
        }
        end.close()?;
        Ok(keys)
    }

    /// Copies all tables but the two that hold versions; they are small, and any row of them may
    /// have changed. Gives their names.
    fn small_tables(
        &mut self,
        read: &ReadTransaction,
        write: &WriteTransaction,
    ) -> Result<BTreeSet<String>, Fault> {
        Ok(BTreeSet::from([
            self.table(read, write, META)?,
            self.table(read, write, COUNT)?,
            self.table(read, write, LEASE)?,
            self.table(read, write, LEASE_KEYS)?,
            self.table(read, write, ALARM)?,
            self.table(read, write, MEMBER)?,
            self.table(read, write, AUTH_USER)?,
            self.table(read, write, AUTH_ROLE)?,
        ]))
    }

    /// Replaces a table by what it is now, and gives its name.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        read: &ReadTransaction,
        write: &WriteTransaction,
        table: TableDefinition<'static, K, V>,
    ) -> Result<String, Fault> {
        write.delete_table(table)?;
        let from = match read.open_table(table) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(table.name().to_owned()),
            from => from?,
        };
        let mut to = write.open_table(table)?;
        let mut end = to.upper_bound_mut(Bound::<K::SelfType<'_>>::Unbounded)?;
        for row in from.iter()? {
            let (key, value) = row?;
            end.insert_before(key.value(), value.value())?;
            self.step()?;
        }
        end.close()?;
        Ok(table.name().to_owned())
    }

    /// After each row: now and then looks up whether to go on, and rests for as long as it worked.
    fn step(&mut self) -> Result<(), Fault> {
        self.rows += 1;
        if self.rows.is_multiple_of(DEFRAGMENT_STEP_ROWS) {
            self.shared.goes_on()?;
            if !self.hurry {
                std::thread::sleep(self.since.elapsed());
            }
            self.since = Instant::now();
        }
        Ok(())
    }

    /// How many revisions the copy is behind.
    fn behind(&self) -> Result<i64, Fault> {
        let now = meta::revision(&self.from.database.begin_read()?)?;
        Ok(now.0 - self.upto.0)
    }

    /// The copy must be as long as the original.
    fn check(&self) -> Result<(), Fault> {
        let (from, to) = (self.from.database.begin_read()?, self.to.database.begin_read()?);
        let versions = (from.open_table(HIST)?.len()?, to.open_table(HIST)?.len()?);
        let keys = (from.open_table(CUR)?.len()?, to.open_table(CUR)?.len()?);
        if versions.0 != versions.1 || keys.0 != keys.1 {
            let text = format!("copying the database went wrong: {versions:?}, {keys:?}");
            return Err(Fault::Damaged(text));
        }
        Ok(())
    }
}

fn begin(store: &Store) -> Result<WriteTransaction, Fault> {
    let mut write = store.database.begin_write()?;
    write.set_quick_repair(true);
    Ok(write)
}
