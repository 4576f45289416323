//! Sets of keys as spans, and whether several sets together hold a whole range.
//!
//! ```text
//! role 1   [a────────d)              [m──────)
//! role 2           [c────g)   [k]
//! asked      [b──────────f)                      held: 1 up to d, then 2
//! ```
//!
//! Keys are byte strings, so between `a` and `ab` lie infinitely many, but there is a *next* key:
//! after `a` comes `a\0`. A single key is therefore the span from itself to its next, and all spans
//! are half-open: two touch when one ends where the other begins, with no key between them.
//!
//! A [`Spans`] is kept sorted and merged. To see whether several of them hold a range together,
//! [`cover`] walks from its start: of the spans that hold the point reached, the one that goes
//! furthest carries it on. Each step passes at least one span for good.

use bytes::Bytes;

use crate::command::KeyRange;

/// Where a span ends: before a key, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Open => true,
        }
    }
}

/// A set of keys: spans that do not touch, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<(Bytes, End)>);

impl<'a> FromIterator<&'a KeyRange> for Spans {
    fn from_iter<T: IntoIterator<Item = &'a KeyRange>>(ranges: T) -> Self {
        let mut spans: Vec<_> =
            ranges.into_iter().filter(|range| !range.is_empty()).map(span).collect();
        spans.sort();
        let mut merged: Vec<(Bytes, End)> = Vec::new();
        for (start, end) in spans {
            match merged.last_mut() {
                Some((_, last)) if reaches(last, &start) => {
                    if *last < end {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }
}

impl Spans {
    /// The span that holds a key, if one does.
    fn around(&self, key: &[u8]) -> Option<&(Bytes, End)> {
        let after = self.0.partition_point(|(start, _)| &start[..] <= key);
        let span = self.0.get(after.checked_sub(1)?)?;
        span.1.is_after(key).then_some(span)
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.around(key).is_some()
    }
}

/// Whether sets of keys together hold all of a range.
///
/// A range that no key can be in begins after it ends. It is held by a span that holds its start
/// and begins before its end, which is what etcd's search for it comes down to; so asking for it
/// tells nothing about keys elsewhere.
pub fn cover<'a>(mut sets: impl Iterator<Item = &'a Spans> + Clone, range: &KeyRange) -> bool {
    let (start, wanted) = match range {
        KeyRange::Key(key) => return sets.any(|spans| spans.contains(key)),
        KeyRange::Span(start, end) if range.is_empty() => {
            let around = |spans: &'a Spans| spans.around(start);
            return sets.filter_map(around).any(|(begin, _)| begin < end);
        }
        range => span(range),
    };
    let mut reached = start;
    loop {
        let ends = sets.clone().filter_map(|spans| spans.around(&reached)).map(|(_, end)| end);
        match ends.max() {
            Some(end) if *end >= wanted => return true,
            Some(End::Before(end)) => reached = end.clone(),
            Some(End::Open) => unreachable!("an open end is the largest"),
            None => return false,
        }
    }
}

fn span(range: &KeyRange) -> (Bytes, End) {
    match range {
        KeyRange::Key(key) => (key.clone(), End::Before([&key[..], &[0]].concat().into())),
        KeyRange::Span(start, end) => (start.clone(), End::Before(end.clone())),
        KeyRange::From(start) => (start.clone(), End::Open),
    }
}

/// Whether a span that ends there leaves no key before the next one's start.
fn reaches(end: &End, start: &[u8]) -> bool {
    match end {
        End::Before(end) => start <= &end[..],
        End::Open => true,
    }
}
