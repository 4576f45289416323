//! The sub-commands of `store`: what is done to data while no server has them.
//!
//! ```text
//!  store                       the server, with etcd's flags
//!  store snapshot restore …    as `etcdutl` has it, into a data directory of ours
//!  store import etcd-dir       etcd's data directory or backup, into ours;   store export: back
//!  store verify, repair, …     looking after a data directory
//! ```
//!
//! Names, flags, texts and exit codes are those of `etcdutl` where it has the same command: 0 for
//! success, 1 for what does not work, 4 for an output format that a command does not have, 128 for
//! wrong arguments. Results go to standard output, everything else to standard error.
//!
//! A data directory is used only under its lock. The first word of the command line decides: one
//! of ours makes it a sub-command, everything else is the server's business.

mod backup;
mod check;
mod print;
mod repair;
mod restore;
mod stopped;
mod takeover;

use std::{ffi::OsString, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use self::print::Format;
pub use self::takeover::take_over;

/// What `store --help` says about this folder.
pub const SUMMARY: &str = "\
Sub-commands, for data that no server is using (`store COMMAND --help`):

  snapshot status FILE         what a backup holds; checks all of it
  snapshot restore FILE        makes a data directory from a backup
  import SOURCE                takes over etcd's backup, or its stopped data directory
  export FILE                  writes a backup that etcd can restore
  verify                       checks the log and the database
  repair                       shows what a damaged log would lose, and cuts it on demand
  defrag                       gives back space that the database does not need
  hashkv PATH                  digest of the history, equal among members
  dump-log, dump-db            what is stored, for people
";

const NAMES: [&str; 10] = [
    "snapshot", "import", "export", "verify", "repair", "defrag", "hashkv", "dump-log", "dump-db",
    "help",
];

/// Tools for data that no server is using. Without a sub-command the server starts.
#[derive(Debug, Parser)]
#[command(name = "store", disable_version_flag = true, max_term_width = 100)]
struct Command {
    /// Output format: simple, json, fields or table
    #[arg(short, long, global = true, default_value = "simple", value_name = "FORMAT")]
    write_out: String,
    /// How long to wait for another process to let go of the data; 0 waits for ever
    #[arg(long, global = true, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    #[command(subcommand)]
    action: Action,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::duration::parse(text).ok_or_else(|| format!("{text:?} is no duration like 10s"))
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Backups: what is in them, and the way back
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Makes a data directory from etcd's backup or from etcd's stopped data directory
    Import(Box<restore::Import>),
    /// Writes a stopped data directory as a backup that etcd can restore
    Export(backup::Export),
    /// Checks the log and the database of a stopped data directory
    Verify(check::Verify),
    /// Shows what a damaged log would lose if it were cut where it is damaged, and cuts it on demand
    Repair(repair::Repair),
    /// Gives back space that the database of a stopped data directory does not need
    Defrag(check::Defrag),
    /// Prints the digest of the history in a backup or a stopped data directory
    Hashkv(backup::HashKv),
    /// Prints the log of a stopped data directory, or segment files by themselves
    DumpLog(check::DumpLog),
    /// Prints a table of a stopped data directory's database, or a bucket of a backup
    DumpDb(check::DumpDb),
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Makes a data directory from a backup
    Restore(Box<restore::Restore>),
    /// Prints what a backup holds, after checking all of it
    Status(backup::Status),
}

/// A data directory that exists.
#[derive(Debug, Args)]
struct DataDir {
    /// Required. The data directory, not in use by a server
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Its log, if that is elsewhere
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
}

/// Why a command did not do what it should, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

const ERROR: u8 = 1;
const BAD_FEATURE: u8 = 4;
const BAD_ARGUMENTS: u8 = 128;

impl Failure {
    fn new(text: impl Into<String>) -> Self {
        Self { code: ERROR, text: text.into() }
    }

    fn arguments(text: impl Into<String>) -> Self {
        Self { code: BAD_ARGUMENTS, text: text.into() }
    }
}

/// One line, with what caused it.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self::new(text)
    }
}

/// What all commands are given.
struct Context {
    format: Format,
    timeout: Duration,
}

impl Context {
    /// Tells how a long piece of work goes.
    fn tell(text: &str) {
        // Standard error is all there is to tell it to.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Runs a sub-command, if the command line (with the program's name) asks for one.
#[must_use]
pub fn dispatch(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1)?.to_str()?;
    if !NAMES.contains(&first) {
        return None;
    }
    let command = match Command::try_parse_from(&args) {
        Ok(command) => command,
        Err(error) => {
            // What cannot be printed has no reader.
            let _ = error.print();
            return Some(ExitCode::from(if error.use_stderr() { ERROR } else { 0 }));
        }
    };
    Some(match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            Context::tell(&format!("Error: {}", failure.text));
            ExitCode::from(failure.code)
        }
    })
}

impl Action {
    /// Whether `--write-out` may be given: where it chooses something, and where `etcdutl` takes it.
    fn takes_format(&self) -> bool {
        matches!(self, Self::Snapshot(_) | Self::Hashkv(_) | Self::Defrag(_))
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let format = Format::parse(&command.write_out)?;
    if format != Format::Simple && !command.action.takes_format() {
        let text = format!("{} not supported as output format", command.write_out);
        return Err(Failure { code: BAD_FEATURE, text });
    }
    let context = Context { format, timeout: command.timeout };
    match command.action {
        Action::Snapshot(Snapshot::Restore(restore)) => restore.run(&context),
        Action::Snapshot(Snapshot::Status(status)) => status.run(&context),
        Action::Import(import) => import.run(&context),
        Action::Export(export) => export.run(&context),
        Action::Verify(verify) => verify.run(&context),
        Action::Repair(repair) => repair.run(&context),
        Action::Defrag(defrag) => defrag.run(&context),
        Action::Hashkv(hash) => hash.run(&context),
        Action::DumpLog(dump) => dump.run(&context),
        Action::DumpDb(dump) => dump.run(&context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_the_summary_names_all_of_it() {
        Command::command().debug_assert();
        for name in NAMES.iter().filter(|name| **name != "help") {
            assert!(SUMMARY.contains(name), "{name}");
        }
        for command in Command::command().get_subcommands() {
            assert!(NAMES.contains(&command.get_name()), "{}", command.get_name());
        }
    }

    #[test]
    fn flags_belong_to_the_server() {
        for args in [&["store"][..], &["store", "--data-dir=x"], &["store", "nonsense"]] {
            assert!(dispatch(args.iter().map(OsString::from)).is_none());
        }
    }
}
