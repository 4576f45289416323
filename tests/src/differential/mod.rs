//! Our store and a real etcd, asked the same questions.
//!
//! A *session* is a list of steps drawn from a seed. It is played on two fresh servers side by
//! side: each step is sent to both, and the next one only when both have answered, so that the
//! order of writes is the same and every answer, error and watch event can be compared. What
//! cannot be equal (ids, terms, sizes, seconds) is taken out of the answers first; the list of
//! everything else that may differ, with reasons, is `store/docs/differences.md`.
//!
//! A difference is reported as the seed that shows it and the shortest session that still does.
//!
//! ```text
//!  seed ──▶ draw ──▶ [turn, turn, …] ──▶ member (ours)   ──▶ answer ─┐
//!                                   └──▶ member (theirs) ──▶ answer ─┴▶ equal? ──▶ shrink
//! ```

mod answer;
mod auth;
mod draw;
mod member;
mod release;
mod shrink;
mod step;
mod watches;

use std::fmt;
use std::path::PathBuf;

pub use answer::Answer;
pub use auth::AuthStep;
pub use release::{Peer, Release};
pub use step::{Step, Turn};

use self::member::Member;
use crate::server::Program;

/// Connections that share a session.
const CLIENTS: usize = 3;
/// Watch streams of a session.
const STREAMS: usize = 3;

/// Where two servers part.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Which turn shows it.
    pub turn: usize,
    /// What was asked.
    pub asked: Turn,
    /// What our store says.
    pub ours: Answer,
    /// What etcd says.
    pub theirs: Answer,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "turn {}: {}", self.turn, brief(&self.asked))?;
        if let (Answer::Heard(ours), Answer::Heard(theirs)) = (&self.ours, &self.theirs) {
            let only = |these: &[answer::Heard], those: &[answer::Heard]| {
                let only: Vec<_> = these.iter().filter(|heard| !those.contains(heard)).collect();
                brief(&only)
            };
            writeln!(f, "  ours:   {}", only(ours, theirs))?;
            return write!(f, "  theirs: {}", only(theirs, ours));
        }
        writeln!(f, "  ours:   {}", brief(&self.ours))?;
        write!(f, "  theirs: {}", brief(&self.theirs))
    }
}

/// How long a description may be: a value of megabytes helps nobody.
const BRIEF: usize = 2000;

/// A description without the fields that hold nothing.
fn brief(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    let mut kept = String::new();
    for part in text.split_inclusive(", ") {
        let field = part.trim_end_matches(", ").trim_end_matches([' ', '}', ')', ']', '[']);
        let empty = ["0", "false", "b\"\"", "\"\"", "None", "Key"];
        let value = field.rsplit_once(": ").map_or("", |(_, value)| value);
        if !empty.contains(&value) || field.contains('{') {
            kept.push_str(part);
        } else {
            // The brackets that it closes stay.
            kept.push_str(&part[field.len()..]);
        }
    }
    while kept.contains(", , ") {
        kept = kept.replace(", , ", ", ");
    }
    kept.chars().take(BRIEF).collect()
}

/// The turns of the session that `seed` stands for.
pub fn session(seed: u64, turns: usize) -> Vec<Turn> {
    draw::session(seed, turns)
}

/// A folder in memory where there is one: the disk is not what is compared.
fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).expect("a temporary folder can be made")
}

/// Plays a session on a fresh server of ours and a fresh one of `peer`'s.
///
/// # Errors
/// At the first difference.
pub async fn play(turns: &[Turn], peer: Peer) -> Result<(), Box<Difference>> {
    let dir = scratch();
    let (our_dir, their_dir) = (dir.path().join("ours"), dir.path().join("theirs"));
    let Peer { program, release } = peer;
    let (mut ours, mut theirs) = tokio::join!(
        Member::start(Program::Ours, release, &our_dir),
        Member::start(program, release, &their_dir)
    );
    for (n, turn) in turns.iter().enumerate() {
        if turn.step.disturbs_watchers() {
            settle(n, turn, &mut ours, &mut theirs).await?;
        }
        let answers = tokio::join!(ours.take(turn), theirs.take(turn));
        same(n, turn, answers)?;
    }
    let end = Turn { client: 0, step: Step::Settle };
    settle(turns.len(), &end, &mut ours, &mut theirs).await
}

async fn settle(
    n: usize,
    turn: &Turn,
    ours: &mut Member,
    theirs: &mut Member,
) -> Result<(), Box<Difference>> {
    let answers = tokio::join!(ours.settle(), theirs.settle());
    same(n, turn, answers)
}

fn same(turn: usize, asked: &Turn, answers: (Answer, Answer)) -> Result<(), Box<Difference>> {
    let (ours, theirs) = answers;
    let broken = |answer: &Answer| matches!(answer, Answer::Broken(_));
    if ours == theirs && !broken(&ours) {
        return Ok(());
    }
    Err(Box::new(Difference { turn, asked: asked.clone(), ours, theirs }))
}

/// Plays the session of a seed; where the servers part, looks for the shortest session that shows
/// it, by playing up to `tries` others.
///
/// # Errors
/// The report: seed, shortest session, and both answers.
pub async fn check(seed: u64, turns: usize, peer: Peer, tries: usize) -> Result<(), String> {
    let session = session(seed, turns);
    let Err(difference) = play(&session, peer.clone()).await else { return Ok(()) };
    let (shortest, difference) = shrink::shrink(&session, *difference, peer, tries).await;
    let turns: Vec<String> = shortest.iter().map(|turn| format!("    {}", brief(turn))).collect();
    Err(format!(
        "seed {seed} with {} turns shows a difference\n  shortest session:\n{}\n  {difference}",
        session.len(),
        turns.join("\n"),
    ))
}
