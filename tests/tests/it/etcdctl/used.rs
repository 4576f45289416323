//! Every command and every flag of etcdctl stands in a script, each command with each format.
//!
//! What there is, is asked of etcdctl itself: its help, command by command. So a new version of it
//! shows here what nobody has tried yet. What is left out, is left out by name and with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::Command;

use goldenscript::{Argument, Context};
use tests::tools;

use super::formats::FORMATS;
use super::words;

/// Commands that no script runs.
const COMMANDS_LEFT_OUT: [(&str, &str); 1] =
    [("completion", "writes a script for a shell and asks no server")];

/// Flags that no script gives, by command; those of every command have an empty one.
const FLAGS_LEFT_OUT: [(&str, &str, &str); 2] = [
    ("", "discovery-srv", "asks a name server, and a test has none"),
    ("", "discovery-srv-name", "goes with discovery-srv"),
];

/// Commands whose output has no formats.
const FORMATS_LEFT_OUT: [(&str, &str); 7] = [
    ("check datascale", "a report in words; takes its time"),
    ("check perf", "a report in words; takes a minute"),
    ("completion", "asks no server"),
    ("elect", "tells keys and leases that differ each time, and keeps its place for a minute"),
    ("make-mirror", "goes on for ever and prints a count of keys every half minute"),
    ("options", "asks no server"),
    ("version", "asks no server"),
];

/// What etcdctl's help names.
struct Offer {
    /// The flags of every command that does something; the words of its name with spaces between.
    commands: BTreeMap<String, BTreeSet<String>>,
    /// The flags that go with all of them.
    flags: BTreeSet<String>,
}

impl Offer {
    fn of_etcdctl() -> Self {
        let mut offer = Self { commands: BTreeMap::new(), flags: BTreeSet::new() };
        offer.explore("");
        offer.flags = section(&etcdctl(&["options"]), |head| head.ends_with(':'), flag);
        offer
    }

    fn explore(&mut self, command: &str) {
        let words: Vec<&str> = command.split_terminator(' ').chain(["--help"]).collect();
        let help = etcdctl(&words);
        let subcommand = |line: &str| {
            let (name, _) = line.trim().split_once(' ')?;
            (line.starts_with("  ") && name != "help").then(|| name.to_owned())
        };
        let is_list = |head: &str| head.trim_end_matches(':').ends_with("ommands");
        let subcommands = section(&help, is_list, subcommand);
        if subcommands.is_empty() {
            let flags = section(&help, |head| head.ends_with("Flags:"), flag);
            self.commands.insert(command.to_owned(), flags);
        }
        for name in subcommands {
            self.explore(format!("{command} {name}").trim_start());
        }
    }

    /// The command that words begin with.
    fn command(&self, words: &[String]) -> Option<&str> {
        let name = |count: usize| words.get(..count).map(|words| words.join(" "));
        let known = |count| self.commands.get_key_value(&name(count)?);
        let (command, _) = known(2).or_else(|| known(1))?;
        Some(command)
    }
}

fn etcdctl(args: &[&str]) -> String {
    let output = Command::new(tools::required("etcdctl-3.7")).args(args).output();
    String::from_utf8(output.expect("etcdctl starts").stdout).expect("help is text")
}

/// What `pick` finds in the lines under the heads that are asked for.
fn section(
    help: &str,
    is_asked: impl Fn(&str) -> bool,
    pick: impl Fn(&str) -> Option<String>,
) -> BTreeSet<String> {
    let mut asked = false;
    let mut found = BTreeSet::new();
    for line in help.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            asked = is_asked(line);
        } else if asked {
            found.extend(pick(line));
        }
    }
    found
}

/// The long name of a flag in a line of help.
fn flag(line: &str) -> Option<String> {
    let (before, rest) = line.split_once("--")?;
    let name = rest.split([' ', '=']).next()?;
    let is_flag = before.trim().is_empty() || before.trim().starts_with('-');
    (is_flag && name != "help").then(|| name.to_owned())
}

/// What the scripts ask for.
#[derive(Default)]
struct Asked(Vec<String>);

impl goldenscript::Runner for Asked {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let args = command.args.iter().filter_map(|arg| match arg {
            Argument::Positional(value) => Some(value.as_str()),
            _ => None,
        });
        let args: Vec<&str> = args.collect();
        match (command.name.as_str(), args.as_slice()) {
            ("ctl" | "report" | "twin", [args]) | ("stdin", [_, args]) | ("talk", [_, args, _]) => {
                self.0.push((*args).to_owned());
            }
            ("at", [_, args]) => self.0.push(format!("{args} --endpoints=@ENDPOINT")),
            ("env", [_, args]) => self.0.push((*args).to_owned()),
            ("secure", [_, args]) => {
                self.0.push(format!("{args} --cacert=ca --cert=cert --key=key"));
            }
            ("watch", [args, _]) => self.0.push(format!("watch {args}")),
            ("lease", [_, args]) => self.0.push(format!("lease grant {args}")),
            ("formats", [.., args]) => {
                self.0.extend(FORMATS.map(|format| format!("{args} --write-out={format}")));
            }
            ("txn", _) => self.0.push("txn".to_owned()),
            ("save", []) => self.0.push("snapshot save".to_owned()),
            _ => {}
        }
        Ok(String::new())
    }
}

/// What was used of the offer.
#[derive(Default)]
struct Used {
    commands: BTreeSet<String>,
    /// By command; an empty one for those of all commands.
    flags: BTreeSet<(String, String)>,
    formats: BTreeSet<(String, String)>,
}

impl Used {
    fn by_scripts(offer: &Offer) -> Self {
        let mut asked = Asked::default();
        let folder = format!("{}/tests/it/etcdctl", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(folder).expect("the scripts are here") {
            let path = entry.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "script") {
                let script = std::fs::read_to_string(&path).expect("a script");
                goldenscript::generate(&mut asked, &script).expect("a script");
            }
        }
        let mut used = Self::default();
        for args in &asked.0 {
            used.note(offer, &words(args));
        }
        used
    }

    fn note(&mut self, offer: &Offer, words: &[String]) {
        // What follows is for the command that a watch or a lock runs.
        let words = words.split(|word| word == "--").next().unwrap_or_default();
        let Some(command) = offer.command(words) else { return };
        self.commands.insert(command.to_owned());
        let mut format = "simple";
        for (at, word) in words.iter().enumerate() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let name = match name {
                "-w" => "write-out",
                "-i" => "interactive",
                "-l" => "listen",
                long => match long.strip_prefix("--") {
                    Some(long) => long,
                    None => continue,
                },
            };
            if name == "write-out" {
                format = match value {
                    "" => words.get(at + 1).map_or("", String::as_str),
                    value => value,
                };
            }
            let owner = if offer.flags.contains(name) { "" } else { command };
            self.flags.insert((owner.to_owned(), name.to_owned()));
        }
        self.formats.insert((command.to_owned(), format.to_owned()));
    }
}

/// Goal: nothing of etcdctl is untried. Method: what its help offers, less what the scripts ask for,
/// is what is left out above, neither more nor less.
#[test]
fn every_command_and_flag_is_in_a_script() {
    if tools::theirs("etcdctl-3.7").is_none() {
        tests::skip("etcdctl::used", "needs etcdctl 3.7");
        return;
    }
    let offer = Offer::of_etcdctl();
    assert!(offer.commands.len() > 40 && offer.flags.len() > 15, "the help is not understood");
    let used = Used::by_scripts(&offer);

    let commands = offer.commands.keys().filter(|command| !used.commands.contains(*command));
    let left_out: Vec<&str> = COMMANDS_LEFT_OUT.iter().map(|(command, _)| *command).collect();
    assert_eq!(commands.collect::<Vec<_>>(), left_out, "commands in no script");

    let of_commands = offer
        .commands
        .iter()
        .flat_map(|(command, flags)| flags.iter().map(|flag| (command.clone(), flag.clone())));
    let of_all = offer.flags.iter().map(|flag| (String::new(), flag.clone()));
    let flags: BTreeSet<_> =
        of_all.chain(of_commands).filter(|flag| !used.flags.contains(flag)).collect();
    let left_out = FLAGS_LEFT_OUT.map(|(command, flag, _)| (command.to_owned(), flag.to_owned()));
    assert_eq!(flags, BTreeSet::from(left_out), "flags in no script");

    let formatted = offer
        .commands
        .keys()
        .filter(|command| FORMATS_LEFT_OUT.iter().all(|(left_out, _)| left_out != command));
    let missing: Vec<_> = formatted
        .flat_map(|command| FORMATS.map(|format| (command.clone(), format.to_owned())))
        .filter(|pair| !used.formats.contains(pair))
        .collect();
    assert_eq!(missing, [], "commands without a script for a format");
    for (command, _) in FORMATS_LEFT_OUT {
        assert!(offer.commands.contains_key(command), "there is no {command} any more");
    }
}
