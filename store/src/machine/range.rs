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

use super::rows::{Meta, Piece, Row, Rows};
use crate::{
    command::{
        KeyRange, KeyValue, RangeAnswer, RangeQuery, Refusal, Revision, SortOrder, SortTarget,
    },
    fault::{Error, Fault},
};

/// Receives the rows of an answer in their final order. The pieces are lent: whoever encodes them
/// copies them once, to where they are needed.
pub trait RowSink {
    /// The value is empty where only keys were asked for.
    fn row(&mut self, key: Piece<'_>, meta: &Meta, value: Piece<'_>);
}

/// What an answer says beside its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The limit left rows out.
    pub more: bool,
    /// All keys of the range, whatever was left out.
    pub count: i64,
}

/// Answers at the state of `current`; the revision asked for must lie between `compacted` and
/// `current`.
pub fn answer(
    rows: &impl Rows,
    compacted: Revision,
    current: Revision,
    query: &RangeQuery,
) -> Result<RangeAnswer, Error> {
    let mut kept = Kept::default();
    let summary = answer_into(rows, compacted, current, query, &mut kept)?;
    Ok(kept.answer(current, summary))
}

/// As [`answer`], with the rows handed to `sink` as they are found.
pub fn answer_into(
    rows: &impl Rows,
    compacted: Revision,
    current: Revision,
    query: &RangeQuery,
    sink: &mut impl RowSink,
) -> Result<Summary, Error> {
    let at = match query.revision {
        Revision(..=0) => current,
        asked if asked > current => return Err(Refusal::FutureRevision { current }.into()),
        asked if asked < compacted => return Err(Refusal::Compacted { compacted }.into()),
        asked => asked,
    };
    Ok(write(rows, at, query, &|range| rows.count(range, at), sink)?)
}

/// Counts the live keys of a range at the revision that is being read.
pub(super) type Count<'a> = &'a dyn Fn(&KeyRange) -> Result<u64, Fault>;

/// Answers at a revision known to be readable.
pub(super) fn write(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
    count: Count<'_>,
    sink: &mut impl RowSink,
) -> Result<Summary, Fault> {
    if query.count_only {
        return Ok(Summary { more: false, count: signed(count(&query.range)?) });
    }
    if let KeyRange::Key(key) = &query.range
        && !query.keys_only
    {
        return write_one(rows, at, query, key, sink);
    }
    // Rows arrive ascending by key, so only other orders need them all before the first.
    if query.target == SortTarget::Key && query.order != SortOrder::Descend {
        return window(rows, at, query, limit(query), count, &mut |row| {
            emit(rows, row, !query.keys_only, sink)
        });
    }
    write_sorted(rows, at, query, count, sink)
}

fn limit(query: &RangeQuery) -> usize {
    usize::try_from(query.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).expect("keys are fewer than revisions")
}

fn write_one(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
    key: &Bytes,
    sink: &mut impl RowSink,
) -> Result<Summary, Fault> {
    let Some((meta, value)) = rows.get(key, at)?.filter(|(meta, _)| !meta.is_tombstone()) else {
        return Ok(Summary::default());
    };
    if passes(query, &meta) {
        sink.row(Piece::Shared(key), &meta, Piece::Shared(&value));
    }
    Ok(Summary { more: false, count: 1 })
}

/// Visits the first rows that pass the filters, at most so many, and counts all of the range.
fn window(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
    rows_max: usize,
    count: Count<'_>,
    visit: &mut dyn FnMut(&Row<'_>) -> Result<(), Fault>,
) -> Result<Summary, Fault> {
    let (mut seen, mut taken, mut beyond) = (0, 0, None);
    rows.scan(&query.range, at, &mut |row| {
        if passes(query, &row.meta) {
            if taken == rows_max {
                beyond = Some(Bytes::copy_from_slice(row.key.as_slice()));
                return Ok(false);
            }
            visit(row)?;
            taken += 1;
        }
        seen += 1;
        Ok(true)
    })?;
    let more = beyond.is_some();
    let rest = match (beyond, &query.range) {
        (None, _) => 0,
        (Some(from), KeyRange::Span(_, end)) => count(&KeyRange::Span(from, end.clone()))?,
        (Some(from), _) => count(&KeyRange::From(from))?,
    };
    Ok(Summary { more, count: signed(seen + rest) })
}

fn write_sorted(
    rows: &impl Rows,
    at: Revision,
    query: &RangeQuery,
    count: Count<'_>,
    sink: &mut impl RowSink,
) -> Result<Summary, Fault> {
    let limit = limit(query);
    let early_limit = query.order == SortOrder::None && !query.has_filters();
    let rows_max = if early_limit { limit.saturating_add(1) } else { usize::MAX };
    let with_values = !query.keys_only || query.target == SortTarget::Value;
    let mut kept = Kept::default();
    let summary = window(rows, at, query, rows_max, count, &mut |row| {
        emit(rows, row, with_values, &mut kept)
    })?;
    let mut found = kept.rows;
    sort(&mut found, query.order, query.target);
    let more = found.len() > limit;
    found.truncate(limit);
    for (meta, key, value) in &found {
        let value = if query.keys_only { Piece::Borrowed(&[]) } else { Piece::Shared(value) };
        sink.row(Piece::Shared(key), meta, value);
    }
    Ok(Summary { more, ..summary })
}

/// Hands on a row; its value is fetched only if it is wanted.
fn emit(
    rows: &impl Rows,
    row: &Row<'_>,
    with_value: bool,
    sink: &mut impl RowSink,
) -> Result<(), Fault> {
    match row.value {
        _ if !with_value => sink.row(row.key, &row.meta, Piece::Borrowed(&[])),
        Some(value) => sink.row(row.key, &row.meta, value),
        None => sink.row(row.key, &row.meta, Piece::Shared(&rows.value(row.meta.at)?)),
    }
    Ok(())
}

fn passes(query: &RangeQuery, meta: &Meta) -> bool {
    let within = |revision: Revision, min: Revision, max: Revision| {
        (min.0 == 0 || revision >= min) && (max.0 == 0 || revision <= max)
    };
    within(meta.at.main, query.min_modified, query.max_modified)
        && within(meta.create, query.min_create, query.max_create)
}

type Found = (Meta, Bytes, Bytes);

fn sort(rows: &mut [Found], order: SortOrder, target: SortTarget) {
    rows.sort_unstable_by(|(a, a_key, a_value), (b, b_key, b_value)| {
        let by_target = match target {
            SortTarget::Key => a_key.cmp(b_key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create.cmp(&b.create),
            SortTarget::Modified => a.at.main.cmp(&b.at.main),
            SortTarget::Value => a_value.cmp(b_value),
        };
        let by_target = match order {
            SortOrder::None | SortOrder::Ascend => by_target,
            SortOrder::Descend => by_target.reverse(),
        };
        by_target.then_with(|| a_key.cmp(b_key))
    });
}

/// Rows that are to outlive the scan.
#[derive(Default)]
pub(super) struct Kept {
    rows: Vec<Found>,
    arena: Arena,
}

impl Kept {
    pub(super) fn answer(self, revision: Revision, summary: Summary) -> RangeAnswer {
        let kvs = self.rows.into_iter().map(|(meta, key, value)| meta.with(key, value)).collect();
        RangeAnswer { revision, kvs, more: summary.more, count: summary.count }
    }
}

impl RowSink for Kept {
    fn row(&mut self, key: Piece<'_>, meta: &Meta, value: Piece<'_>) {
        let (key, value) = (self.arena.piece(key), self.arena.piece(value));
        self.rows.push((*meta, key, value));
    }
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
        if bytes.is_empty() {
            return Bytes::new();
        }
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
