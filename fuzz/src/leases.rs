//! Deadlines of leases, across leaders, on a clock that jumps.
//!
//! Two members take turns at leading; what the log would hold (which leases exist, and the notes of
//! what is left of them) is kept here, and so is every promise that a client was given: "so many
//! seconds from now". Whoever leads, and however often that changes, no lease may be handed out for
//! revocation before the last promise about it has run out, and each is handed out soon after, until
//! it is revoked. What else can be asked is worked out from a plain list of deadlines.

use std::collections::BTreeMap;
use std::time::Duration;

use store::command::LeaseId;
use store::lessor::{CHECKPOINT_EVERY, Lessor, RETRY, Remaining};

use crate::Random;

const STEPS_MAX: usize = 120;
/// What a new leader adds.
const EXTEND: Duration = Duration::from_secs(1);
/// More than there are leases.
const ALL: usize = 100;

/// What is agreed on about a lease, and what its client believes.
#[derive(Clone, Copy, Debug)]
struct Known {
    seconds: i64,
    /// Seconds left by the last note in the log; 0 without one.
    noted: i64,
    /// The client counts on it until then.
    promised: Duration,
    /// The leader's deadline.
    deadline: Duration,
    /// When the leader last asked for its revocation.
    asked: Option<Duration>,
}

struct World {
    members: [Lessor; 2],
    leader: usize,
    leases: BTreeMap<LeaseId, Known>,
    now: Duration,
    checkpoints: bool,
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

/// Some lives of a few leases.
pub fn seed(seed: u64) {
    let mut random = Random::new(seed);
    let checkpoints = random.once_in(2);
    let mut world = World {
        members: [Lessor::new(checkpoints), Lessor::new(checkpoints)],
        leader: 0,
        leases: BTreeMap::new(),
        now: Duration::from_secs(random.below(1000) as u64),
        checkpoints,
    };
    world.elect(0);
    for _ in 0..random.below(STEPS_MAX) {
        let id = LeaseId(random.small(6));
        match random.below(16) {
            0..=3 => world.grant(id, &mut random),
            4..=6 => world.renew(seed, id),
            7 => world.revoke(id),
            8 => world.elect(random.below(2)),
            9 | 10 => world.note(seed, 1 + random.below(4)),
            11..=13 => {
                let jumps = [1, 50, 1_000, 2_500, 60_000, 290_000, 310_000, 4_000_000];
                let most = random.one_of(&jumps);
                world.now += Duration::from_millis(random.below(most) as u64);
            }
            _ => world.expire(seed, 1 + random.below(4)),
        }
        world.check(seed);
    }
    // In the end all of them end.
    world.now += Duration::from_secs(20_000);
    world.expire(seed, ALL);
    let left: Vec<_> = world.leases.values().filter(|known| known.asked.is_none()).collect();
    assert!(left.is_empty(), "seed {seed}: {left:?} never ends");
}

impl World {
    fn leader(&mut self) -> &mut Lessor {
        &mut self.members[self.leader]
    }

    /// Another member leads, or the same one anew.
    fn elect(&mut self, member: usize) {
        self.leader().demote();
        self.leader = member;
        let (now, checkpoints) = (self.now, self.checkpoints);
        let leases: Vec<_> =
            self.leases.iter().map(|(id, known)| (*id, known.seconds, known.noted)).collect();
        self.members[member].promote(leases, now, EXTEND);
        for known in self.leases.values_mut() {
            let left = match checkpoints && known.noted > 0 {
                true => known.noted.min(known.seconds),
                false => known.seconds,
            };
            known.deadline = now + EXTEND + seconds(left);
            known.asked = None;
        }
    }

    fn grant(&mut self, id: LeaseId, random: &mut Random) {
        if self.leases.contains_key(&id) {
            return;
        }
        let granted = random.one_of(&[0, 1, 2, 5, 60, 299, 300, 301, 900, 10_000]);
        let deadline = self.now + seconds(granted);
        let known = Known { seconds: granted, noted: 0, promised: deadline, deadline, asked: None };
        self.leases.insert(id, known);
        let now = self.now;
        // Every member applies the grant; only the leader counts.
        self.members.iter_mut().for_each(|member| member.granted(id, granted, now));
    }

    fn renew(&mut self, seed: u64, id: LeaseId) {
        let now = self.now;
        if self.leader().has_note(id) && !self.leader().is_expired(id, now) {
            // As the shell does it: the note is taken back in the log before more is promised.
            self.leases.get_mut(&id).expect("only known leases have notes").noted = 0;
            self.leader().note_withdrawn(id);
        }
        let told = self.leader().renew(id, now);
        let expected = self.leases.get(&id).filter(|known| known.deadline > now);
        let expected = expected.map(|known| seconds(known.seconds));
        assert_eq!(told, expected, "seed {seed}: {id:?} at {now:?}");
        if let (Some(more), Some(known)) = (told, self.leases.get_mut(&id)) {
            known.promised = now + more;
            known.deadline = now + more;
            known.asked = None;
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        self.members.iter_mut().for_each(|member| member.revoked(id));
    }

    fn note(&mut self, seed: u64, max: usize) {
        let now = self.now;
        let notes = self.leader().to_note(now, max);
        assert!(notes.len() <= max && (self.checkpoints || notes.is_empty()), "seed {seed}");
        for (id, left) in notes {
            let known = self.leases.get_mut(&id).expect("only known leases are noted");
            let long = seconds(known.seconds) + EXTEND > CHECKPOINT_EVERY;
            assert!(long, "seed {seed}: {known:?} is too short to be noted");
            assert!(now + seconds(left) >= known.promised, "seed {seed}: {id:?} would end early");
            known.noted = left;
        }
    }

    fn expire(&mut self, seed: u64, max: usize) {
        let now = self.now;
        let handed = self.leader().expired(now, max);
        assert!(handed.len() <= max, "seed {seed}: {handed:?}");
        for id in &handed {
            let known = self.leases.get_mut(id).expect("only known leases end");
            assert!(known.promised <= now, "seed {seed}: {id:?} was promised more, {known:?}");
            assert!(known.deadline <= now, "seed {seed}: {id:?} {known:?}");
            let soon = known.asked.is_some_and(|asked| now < asked + RETRY);
            assert!(!soon, "seed {seed}: {id:?} is asked for twice");
            known.asked = Some(now);
        }
        // With room for more, none that is due is left out.
        let due = |known: &Known| match known.asked {
            None => known.deadline <= now,
            Some(asked) => asked + RETRY <= now,
        };
        let left = self.leases.values().any(due);
        assert!(!left || handed.len() == max, "seed {seed}: some are left out of {handed:?}");
    }

    fn check(&mut self, seed: u64) {
        let (now, other) = (self.now, 1 - self.leader);
        assert_eq!(self.members[other].by_deadline(), [], "seed {seed}: a follower counts");
        let mut order: Vec<_> =
            self.leases.iter().map(|(id, known)| (known.deadline, *id)).collect();
        order.sort_unstable();
        let order: Vec<_> = order.into_iter().map(|(_, id)| id).collect();
        let leader = &self.members[self.leader];
        assert_eq!(leader.by_deadline(), order, "seed {seed}");
        for (id, known) in &self.leases {
            let left = known.deadline.saturating_sub(now);
            let expected = Remaining { left, granted: seconds(known.seconds) };
            assert_eq!(leader.remaining(*id, now), Some(expected), "seed {seed}: {id:?}");
            assert_eq!(leader.is_expired(*id, now), known.deadline <= now, "seed {seed}: {id:?}");
        }
        let due = self.leases.values().map(|known| match known.asked {
            None => known.deadline,
            Some(asked) => asked + RETRY,
        });
        assert_eq!(leader.next_due(), due.min(), "seed {seed}");
    }
}
