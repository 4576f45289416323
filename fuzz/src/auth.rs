//! Users, roles and permissions: changes in any order, by anybody.
//!
//! The machine and the naive model carry out the same commands, each after its way through the log's
//! encoding, and must agree on every answer and refusal, on who may do what afterwards, and on all
//! that can be listed. Beside the model, some things must hold whatever it says: a refused change
//! changes nothing, the revision never falls, root is never locked out while logging in is required,
//! nobody but root changes users, and what a checkpoint keeps is put back as it was.

use bytes::Bytes;
use store::command::{
    self, Command, KeyRange, ROOT, Sender, decode_role, decode_user, encode_role, encode_user,
};
use store::machine::auth::Auth;
use store::machine::auth::needs::{Act, Need};
use store::machine::lease::Leases;
use store::machine::{self, State};

use crate::draw::Draw;
use crate::model::Model;
use crate::rows::Versions;

/// Commands of one seed.
const COMMANDS_MAX: usize = 80;
/// Questions after each command.
const QUESTIONS: usize = 3;

/// Some commands, and who may do what in between.
pub fn seed(seed: u64) {
    let mut draw = Draw::new(seed);
    let (mut state, mut rows, mut model) =
        (State::default(), Versions::default(), Model::default());
    for _ in 0..1 + draw.random.below(COMMANDS_MAX) {
        let command = command(&mut draw);
        let entry = Bytes::from(command::encode(std::slice::from_ref(&command)));
        let command = command::decode(entry).expect("just encoded").remove(0);
        let before = state.auth.clone();
        let applied = machine::apply(&mut state, &rows, &command).expect("memory does not fail");
        if let Some((revised, traces)) = &applied.revised {
            rows.note(revised.revision, traces);
        }
        let (outcome, _) = model.apply(&command);
        assert_eq!(applied.outcome, outcome, "seed {seed}: {command:?}");
        if outcome.result.is_err() {
            assert_eq!(state.auth, before, "seed {seed}: refused, {command:?} changed something");
        }
        assert!(state.auth.revision() >= before.revision(), "seed {seed}: {command:?}");
        by_root_alone(seed, &before, &state.auth, &command);
        model.guard.check(&state.auth);
        draw.revision = state.revision.0;
        draw.auth_revision = state.auth.revision();
        for _ in 0..QUESTIONS {
            question(seed, &mut draw, &state.auth, &model);
        }
    }
    assert_eq!(restored(&state.auth), *state.auth, "seed {seed}");
}

/// Changes of users for the most part; keys and leases, because rights are about those.
fn command(draw: &mut Draw) -> Command {
    let command = match draw.random.below(3) {
        0 => draw.command(),
        _ => Command::Auth(draw.auth()),
    };
    if draw.random.once_in(4) { command } else { command.by(draw.sender()) }
}

/// Holds without a model: while logging in is required, users and roles change by root's hand or
/// the store's, and root stays what he is.
fn by_root_alone(seed: u64, before: &Auth, after: &Auth, command: &Command) {
    let is_root =
        |auth: &Auth, name: &str| auth.user(name).is_some_and(|user| user.roles.contains(ROOT));
    if after.enabled() {
        assert!(is_root(after, ROOT), "seed {seed}: root is locked out by {command:?}");
    }
    if before.enabled() && after != before {
        let may = match command.parts().0 {
            Some(Sender::Store) => true,
            Some(Sender::User(login)) => is_root(before, &login.user),
            None => false,
        };
        assert!(may, "seed {seed}: {command:?} changed users");
    }
}

fn question(seed: u64, draw: &mut Draw, auth: &Auth, model: &Model) {
    let by = (!draw.random.once_in(8)).then(|| draw.sender());
    let act = draw.random.one_of(&[Act::Read, Act::Write]);
    let range = draw.range();
    let told = auth.permits(by.as_ref(), Need::Keys(act, &range), &Leases::default());
    let expected = model.guard.permits(by.as_ref(), act, &range);
    assert_eq!(told, expected, "seed {seed}: {by:?} {act:?} {range:?} by {:?}", model.guard);
    if let (KeyRange::Key(key), Ok(())) = (&range, told) {
        // Whoever may have a key may have the range of just that key.
        let just = KeyRange::Span(key.clone(), Bytes::from([key, &[0][..]].concat()));
        let told = auth.permits(by.as_ref(), Need::Keys(act, &just), &Leases::default());
        assert_eq!(told, Ok(()), "seed {seed}: {by:?} {act:?} {just:?}");
    }
}

/// The same, after its way through the rows of the database.
fn restored(auth: &Auth) -> Auth {
    let users =
        auth.users().map(|user| decode_user(encode_user(user).into()).expect("just encoded"));
    let roles = auth.roles().map(|(name, role)| {
        decode_role(encode_role(name, role.permissions()).into()).expect("just encoded")
    });
    Auth::restore(auth.enabled(), auth.revision(), users, roles)
}
