//! The evaluator of commands: transactions above all, nested three deep.
//!
//! Commands are carried out by the machine, over versions in a plain map, and by the naive model of
//! the store's tests. Every answer, refusal and event must be equal, and so must the questions that
//! are asked in between, at any revision. A refused command must leave no version behind, which the
//! next questions would see. Transactions that only ask take a way of their own outside of the log;
//! it must say what the machine says.

use store::command::{Command, Txn};
use store::fault::Error;
use store::machine::{self, State};

use crate::draw::Draw;
use crate::model::Model;
use crate::rows::Versions;

/// Commands of one seed.
const COMMANDS_MAX: usize = 40;

/// The machine and its model.
struct Pair {
    state: State,
    rows: Versions,
    model: Model,
}

impl Pair {
    fn apply(&mut self, seed: u64, command: &Command) {
        let applied = machine::apply(&mut self.state, &self.rows, command);
        let applied = applied.expect("memory does not fail");
        let (outcome, revised) = self.model.apply(command);
        assert_eq!(applied.outcome, outcome, "seed {seed}: {command:?}");
        let made = applied.revised.map(|(revised, traces)| {
            self.rows.note(revised.revision, &traces);
            (*revised).clone()
        });
        assert_eq!(made, revised, "seed {seed}: the events of {command:?}");
        assert_eq!(self.state.sizes.retained(), self.model.retained(), "seed {seed}: {command:?}");
    }

    /// Asks something outside of the log.
    fn ask(&self, seed: u64, txn: &Txn) {
        let told = machine::ask(&self.rows, self.state.compacted, self.state.revision, txn);
        let told = told.map_err(|error| match error {
            Error::Refused(refusal) => refusal,
            Error::Failed(fault) => panic!("{fault}"),
        });
        assert_eq!(told, self.model.ask(txn), "seed {seed}: {txn:?}");
    }
}

/// Some commands, and questions in between.
pub fn seed(seed: u64) {
    let mut draw = Draw::new(seed);
    let mut pair =
        Pair { state: State::default(), rows: Versions::default(), model: Model::default() };
    for _ in 0..1 + draw.random.below(COMMANDS_MAX) {
        let command = match draw.random.below(3) {
            0 => draw.command(),
            _ => Command::Txn(draw.txn(3)),
        };
        pair.apply(seed, &command);
        (draw.compacted, draw.revision) = (pair.state.compacted.0, pair.state.revision.0);
        if draw.random.once_in(3) {
            pair.ask(seed, &draw.question());
        }
    }
}
