//! What HashKV has told about a revision that was then compacted to.
//!
//! A digest counts every version up to its revision, but of those up to the compacted revision only
//! what is still needed. So a compaction *to* the very revision that was hashed changes its digest,
//! although nobody has changed a key: a client that compares before and after would see corruption.
//! etcd hashes everything in each compaction and remembers the last ten results, told with the
//! compaction before. Here a compaction reads no more than it removes, so the last ten digests that
//! were *asked for* are remembered: whoever compares has asked before.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::command::Revision;
use crate::limits::TOLD_HASHES_MAX;
use crate::machine::digest::Digest;

#[derive(Default)]
pub(crate) struct Told(Mutex<VecDeque<Digest>>);

impl Told {
    /// Remembers an answer, in place of an older one to the same question.
    pub(super) fn remember(&self, digest: Digest) {
        let mut told = self.0.lock().expect("nothing panics with the lock");
        told.retain(|other| other.revision != digest.revision);
        if told.len() == TOLD_HASHES_MAX {
            told.pop_front();
        }
        told.push_back(digest);
    }

    /// The answer from before the compaction to a revision.
    pub(super) fn before(&self, compacted: Revision) -> Option<Digest> {
        let told = self.0.lock().expect("nothing panics with the lock");
        let found = told.iter().find(|digest| digest.revision == compacted);
        found.copied().filter(|digest| digest.compacted < compacted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(revision: i64, compacted: i64) -> Digest {
        let (revision, compacted) = (Revision(revision), Revision(compacted));
        Digest { hash: u32::try_from(revision.0).expect("small"), revision, compacted }
    }

    #[test]
    fn an_answer_outlives_the_compaction_to_its_revision() {
        let told = Told::default();
        told.remember(digest(5, -1));
        assert_eq!(told.before(Revision(5)), Some(digest(5, -1)));
        assert_eq!(told.before(Revision(6)), None);
        // Asked for again after the compaction: there is nothing from before any more.
        told.remember(digest(5, 5));
        assert_eq!(told.before(Revision(5)), None);
    }

    #[test]
    fn only_the_last_answers_are_kept() {
        let told = Told::default();
        let many = i64::try_from(TOLD_HASHES_MAX).expect("few") + 2;
        (1..=many).for_each(|revision| told.remember(digest(revision, 0)));
        assert_eq!(told.before(Revision(2)), None);
        assert_eq!(told.before(Revision(3)), Some(digest(3, 0)));
    }
}
