//! Answers to range questions.
//!
//! The order of steps is etcd's and clients can see it: the count is of all keys of the range,
//! whatever else is asked; filters come before the limit; with an explicit order the limit comes
//! after sorting, but with a sort target alone it comes before, one row beyond the limit included.
//! Rows that compare equal are in key order, so that all members answer alike.
//!
//! Rows from a page of the database are copied into chunks shared by many rows, one allocation for
//! dozens of them; rows from memory are shared with it.

use bytes::{Bytes, BytesMut};

use super::rows::{Piece, Row, Rows};
use crate::{
    command::{KeyValue, RangeAnswer, RangeQuery, Refusal, Revision, SortOrder, SortTarget},
    fault::{Error, Fault},
};

/// Answers at the state of `current`; the revision asked for must lie between `compacted` and
/// `current`.
pub fn answer(
    rows: &impl Rows,
    compacted: Revision,
    current: Revision,
    query: &RangeQuery,
) -> Result<RangeAnswer, Error> {
    let at = match query.revision {
        Revision(..=0) => current,
        asked if asked > current => return Err(Refusal::FutureRevision { current }.into()),
        asked if asked < compacted => return Err(Refusal::Compacted { compacted }.into()),
        asked => asked,
    };
    Ok(RangeAnswer { revision: current, ..answer_at(rows, at, query)? })
}

/// Answers at a revision known to be readable.
pub(super) fn answer_at(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
) -> Result<RangeAnswer, Fault> {
    if query.count_only {
        let mut count = 0;
        rows.scan(&query.range, at, &mut |_| {
            count += 1;
            Ok(true)
        })?;
        return Ok(RangeAnswer { count, ..RangeAnswer::default() });
    }
    let limit = usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // Rows already arrive ascending by key.
    let in_scan_order = query.target == SortTarget::Key && query.order != SortOrder::Descend;
    let early_limit = !query.has_filters() && (query.order == SortOrder::None || in_scan_order);
    let rows_max = if early_limit { limit.saturating_add(1) } else { usize::MAX };

    let with_values = !query.keys_only || query.target == SortTarget::Value;
    let (mut kvs, count) = collect(rows, at, query, with_values, rows_max)?;
    if !in_scan_order {
        sort(&mut kvs, query.order, query.target);
    }
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if query.keys_only && with_values {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(RangeAnswer { kvs, more, count, ..RangeAnswer::default() })
}

fn collect(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
    with_values: bool,
    rows_max: usize,
) -> Result<(Vec<KeyValue>, i64), Fault> {
    let (mut kvs, mut count, mut arena) = (Vec::new(), 0, Arena::default());
    rows.scan(&query.range, at, &mut |row| {
        count += 1;
        if kvs.len() < rows_max && passes(query, row) {
            kvs.push(arena.keep(rows, row, with_values)?);
        }
        Ok(true)
    })?;
    Ok((kvs, count))
}

fn passes(query: &RangeQuery, row: &Row<'_>) -> bool {
    let within = |revision: Revision, min: Revision, max: Revision| {
        (min.0 == 0 || revision >= min) && (max.0 == 0 || revision <= max)
    };
    within(row.meta.at.main, query.min_modified, query.max_modified)
        && within(row.meta.create, query.min_create, query.max_create)
}

fn sort(kvs: &mut [KeyValue], order: SortOrder, target: SortTarget) {
    kvs.sort_unstable_by(|a, b| {
        let by_target = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.cmp(&b.create),
            SortTarget::Modified => a.modified.cmp(&b.modified),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        let by_target = match order {
            SortOrder::None | SortOrder::Ascend => by_target,
            SortOrder::Descend => by_target.reverse(),
        };
        by_target.then_with(|| a.key.cmp(&b.key))
    });
}

/// Copies rows into shared chunks that grow with the answer.
#[derive(Default)]
pub(super) struct Arena {
    chunk: BytesMut,
    chunk_bytes: usize,
}

impl Arena {
    const CHUNK_BYTES_MIN: usize = 512;
    const CHUNK_BYTES_MAX: usize = 64 * 1024;

    /// The row as a value of its own.
    pub(super) fn keep(
        &mut self,
        rows: &impl Rows,
        row: &Row<'_>,
        with_value: bool,
    ) -> Result<KeyValue, Fault> {
        let key = self.piece(row.key);
        let value = match row.value {
            _ if !with_value => Bytes::new(),
            Some(value) => self.piece(value),
            None => rows.value(row.meta.at)?,
        };
        Ok(row.meta.with(key, value))
    }

    fn piece(&mut self, piece: Piece<'_>) -> Bytes {
        let bytes = match piece {
            Piece::Shared(bytes) => return bytes.clone(),
            Piece::Borrowed(bytes) => bytes,
        };
        if bytes.len() > Self::CHUNK_BYTES_MAX / 8 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.chunk_bytes =
                (self.chunk_bytes * 2).clamp(Self::CHUNK_BYTES_MIN, Self::CHUNK_BYTES_MAX);
            self.chunk = BytesMut::with_capacity(self.chunk_bytes.max(bytes.len()));
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}
