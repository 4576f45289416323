//! Every flag of etcd's, as etcd's own help names them, given to both: what is taken, and what is
//! said to values that cannot be.
//!
//! `--version` ends both programs once the flags are read, so nothing starts here. What each flag
//! does, and that none is ignored without a word, is tested where they are read (`store/src/config`).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tests::tools;

/// A word, a negative number, and a number beyond 64 bits: one of them is wrong for every flag that
/// is more than text.
const VALUES: [&str; 3] = ["banana", "-1", "99999999999999999999"];

/// Flags of old versions, and of none.
const UNLISTED: [&str; 8] = [
    "cluster-active-size",
    "max-retry-attempts",
    "snapshot",
    "vv",
    "enable-v2",
    "proxy",
    "experimental-compaction-batch-limit",
    "no-such-flag",
];

/// What differs, by flag and value (empty: any), each with its reason.
const DIFFERS: [(&str, &str, &str); 5] = [
    ("discovery-endpoints", "", "refused by name: there is one member"),
    ("discovery-srv", "", "refused by name: there is one member"),
    ("discovery-srv-name", "", "refused by name: there is one member"),
    ("discovery-token", "", "refused by name: there is one member"),
    ("distributed-tracing-sampling-rate", "-1", "refused at once: it can mean nothing"),
];

/// Flags whose refusal says more than etcd's: which values there are, or what is wrong with one.
const OWN_WORDS: [&str; 5] = [
    "cors",
    "discovery-fallback",
    "initial-cluster-state",
    "max-concurrent-streams",
    "v2-deprecation",
];

/// The exit code, and the first line if that is not zero.
fn tried(program: &Path, flag: &str, value: &str) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.arg(format!("--{flag}={value}")).arg("--version").env_clear();
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said.lines().find(|line| !line.is_empty()).unwrap_or_default();
    let said = said.strip_prefix("store: ").unwrap_or(said);
    let said = if output.status.success() { "" } else { said };
    (output.status.code(), said.to_owned())
}

/// Goal: a start line that etcd takes is taken, and one that it refuses is refused with its exit
/// code and its words.
#[test]
fn flags_are_taken_and_refused_as_by_etcd() {
    let Some(etcd) = tools::theirs("etcd-3.7") else {
        tests::skip("flags", "needs etcd 3.7");
        return;
    };
    let store = tools::ours("store");
    let help = Command::new(&etcd).arg("--help").output().expect("etcd starts");
    let help = [help.stdout, help.stderr].concat();
    let help = String::from_utf8(help).expect("help is text");
    let mut flags: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next())
        .collect();
    assert!(flags.len() > 100, "the help is not understood");
    flags.extend(UNLISTED);
    let mut wrong = Vec::new();
    for flag in flags {
        for value in VALUES {
            let differs = DIFFERS
                .iter()
                .any(|(name, only, _)| *name == flag && (only.is_empty() || *only == value));
            if differs {
                continue;
            }
            let (theirs, ours) = (tried(&etcd, flag, value), tried(&store, flag, value));
            let same = match OWN_WORDS.contains(&flag) {
                true => theirs.0 == ours.0,
                false => theirs == ours,
            };
            if !same {
                wrong.push(format!("--{flag}={value}: etcd {theirs:?}, ours {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
