//! Finds a short session that shows a difference.
//!
//! What comes after the difference goes first, then all that only reads; then halves, quarters and
//! so on are taken out as long as what is left still shows a difference. Any difference will do: a
//! shorter way to another one is a find as good. Each try starts two servers, so their number is
//! bounded.

use super::{Difference, Peer, Step, Turn, play};

pub(super) async fn shrink(
    session: &[Turn],
    difference: Difference,
    peer: Peer,
    tries_max: usize,
) -> (Vec<Turn>, Difference) {
    let mut best = (session[..session.len().min(difference.turn + 1)].to_vec(), difference);
    if tries_max == 0 {
        return best;
    }
    let mut writes = best.0.clone();
    let last = writes.pop();
    writes.retain(|turn| !only_reads(&turn.step));
    writes.extend(last);
    if let Err(difference) = play(&writes, peer.clone()).await {
        writes.truncate(difference.turn + 1);
        best = (writes, *difference);
    }
    let (mut size, mut from, mut tries) = (best.0.len() / 2, 0, 0);
    while size > 0 && tries < tries_max {
        if from >= best.0.len() {
            (size, from) = (size / 2, 0);
            continue;
        }
        let mut shorter = best.0.clone();
        shorter.drain(from..(from + size).min(best.0.len()));
        tries += 1;
        match play(&shorter, peer.clone()).await {
            Ok(()) => from += size,
            Err(difference) => {
                shorter.truncate(difference.turn + 1);
                best = (shorter, *difference);
            }
        }
    }
    best
}

fn only_reads(step: &Step) -> bool {
    matches!(
        step,
        Step::Range(_)
            | Step::RangeStream(_)
            | Step::TimeToLive(_)
            | Step::KeepAlive(_)
            | Step::Leases
            | Step::Members(_)
            | Step::Status
            | Step::HashKv(_)
            | Step::Brief(_)
    )
}
