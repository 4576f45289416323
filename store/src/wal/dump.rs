//! A segment in words, for `store dump-log` and for anyone who has to look into a damaged log.
//!
//! Reads one file by itself, in whatever state it is, and never writes. Entry bodies are shown by
//! size only: they hold users' values.

use super::record::Record;
use super::segment::{BadHeader, HEADER_BYTES, SegmentHeader, Source, Tail, scan};
use std::fmt::Write as _;
use std::io;

/// Writes one line per record of the segment in `source` through `line`, and a last one with the
/// verdict on its end.
pub fn segment(source: &mut impl Source, mut line: impl FnMut(&str)) -> io::Result<()> {
    let bytes = source.fetch(0, HEADER_BYTES)?;
    let header = match SegmentHeader::decode(bytes) {
        Ok(header) => header,
        Err(BadHeader::Version(version)) => {
            line(&format!("not readable: format version {version}"));
            return Ok(());
        }
        Err(BadHeader::Damaged) => {
            line("not readable: no segment header");
            return Ok(());
        }
    };
    line(&format!(
        "segment {} of member {:x} in cluster {:x}, first index {}, link {:08x}",
        header.number, header.node, header.cluster, header.first, header.link
    ));
    let end = scan(source, &header, true, |offset, record| {
        line(&format!("{offset:>10} {}", describe(&record)));
        Ok(())
    })?;
    let verdict = match end.tail {
        Tail::Clean => "the end".to_owned(),
        Tail::Torn { until } => format!("a torn write up to {until}"),
        Tail::Damaged { reason } => format!("DAMAGED: {reason}"),
    };
    line(&format!("{:>10} {verdict}", end.offset));
    Ok(())
}

fn describe(record: &Record) -> String {
    let mut text = String::new();
    let id = |id: &Option<super::LogId>| {
        id.map_or_else(|| "-".to_owned(), |id| format!("{}/{}", id.term, id.index))
    };
    let written = match record {
        Record::Checkpoint(state) => {
            let vote = state.vote.map_or_else(|| "-".to_owned(), |vote| describe_vote(&vote));
            let (purged, last) = (id(&state.purged), id(&state.last));
            let committed = id(&state.committed);
            write!(text, "checkpoint vote={vote} purged={purged} last={last} committed={committed}")
        }
        Record::Vote(vote) => write!(text, "vote {}", describe_vote(vote)),
        Record::Entry(entry) => write!(
            text,
            "entry {}/{} tag={} bytes={}",
            entry.id.term,
            entry.id.index,
            entry.tag,
            entry.body.len()
        ),
        Record::Truncate { since, last } => {
            write!(text, "truncate since={since} last={}", id(last))
        }
        Record::Purge(purged) => write!(text, "purge {}", id(&Some(*purged))),
        Record::Committed(committed) => write!(text, "committed {}", id(&Some(*committed))),
    };
    written.expect("a string takes everything");
    text
}

fn describe_vote(vote: &super::Vote) -> String {
    let committed = if vote.committed { " committed" } else { "" };
    format!("term {} node {:x}{committed}", vote.term, vote.node)
}
