//! What `--help` prints: the table, in etcd's layout.

use super::gates::FeatureGates;
use super::table::{self, Flag, Kind, Meaning};

const USAGE: &str = "\
store: a key-value server that speaks etcd's v3 API

Usage:

  store [flags]
    Start a server. One or two dashes, `=` or a space before the value; booleans need `=`.
    Every flag is also a variable: --data-dir is ETCD_DATA_DIR. Giving an option both ways is
    an error.

  store --config-file FILE
    Take everything from a YAML file with etcd's keys, and look at nothing else. Durations are
    whole nanoseconds there.

  store --version | -h | --help

Try:

  store --data-dir /tmp/store &
  etcdctl put greeting hello && etcdctl get greeting
";

/// The whole text.
pub(super) fn text() -> String {
    let mut text = format!("{USAGE}\n{}", crate::offline::SUMMARY);
    for (title, flags) in table::groups() {
        text.push_str(&format!("\n{title}:\n"));
        for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
            text.push_str(&entry(flag));
        }
    }
    text.push_str("\nFeature gates:\n");
    for (name, stage, on) in FeatureGates::default().iter() {
        text.push_str(&format!("  {name}=true|false ({}, default {on})\n", stage.as_str()));
    }
    text.push_str("  AllAlpha, AllBeta: all gates of a stage that are not named themselves\n");
    text
}

fn entry(flag: &Flag) -> String {
    let help = match flag.meaning {
        Meaning::Idle(why) => format!("Taken, and changes nothing: {why}."),
        Meaning::Refused(why) => format!("Refused: {why}."),
        Meaning::Works | Meaning::Dead => flag.help.to_owned(),
    };
    let default = match (flag.default, flag.kind) {
        ("false", Kind::Switch) => String::new(),
        (default, _) => format!(" '{default}'"),
    };
    format!("  --{}{default}\n    {help}\n", flag.name)
}
