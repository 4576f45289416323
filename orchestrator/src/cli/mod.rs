//! The command line: what can be typed, and how an answer or an error is shown.
//!
//! `args` holds the grammar, one struct for each sub-command; this file sends each to the module that
//! does the work. An error is one line on standard error that names the thing and, where there is one,
//! the way out. Exit codes: 0 done, 1 refused or failed, 2 the command line itself was wrong.

pub mod args;
pub mod env;
pub mod image;
pub mod logging;
pub mod root;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::up::{self, alone};
use args::{Args, Command};

/// Runs the sub-command named by the process's arguments.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and version are "errors" of the parser too: it knows where each is printed.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", one_line(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// The hidden role that holds one pod's containers. No thread may exist when this is called.
pub fn shim(args: Vec<OsString>) -> ExitCode {
    crate::kubelet::shim::main(args)
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Down(args) => up::down::run(&args),
        Command::Env(args) => env::run(&args),
        Command::Image(command) => image::run(&command),
        Command::Apiserver(args) => alone::apiserver(&args),
        Command::Scheduler(args) => alone::scheduler(&args),
        Command::Controllers(args) => alone::controllers(&args),
        Command::Kubelet(args) => alone::kubelet(&args),
        Command::Proxy(args) => alone::proxy(&args),
        Command::Shim(_) => anyhow::bail!("the shim role is started by the kubelet only"),
        Command::Version => version(),
    }
}

fn version() -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "orchestrator {}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}

/// What the parser says, without its outline of the usage: the error, the flags it concerns, its tips.
fn one_line(text: &str) -> String {
    let said = text.split("\n\nUsage:").next().unwrap_or(text);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    let words: Vec<&str> = said.split_whitespace().collect();
    format!("{} (--help tells more)", words.join(" "))
}

/// One line, causes joined by colons, whatever the depth of the chain.
fn say_error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_command_line_is_one_line() {
        for (words, says) in [
            (&["up", "--frob"][..], "error: unexpected argument '--frob' found"),
            (&["up", "--api-port", "x"], "invalid value 'x' for '--api-port <PORT>'"),
            (&["image", "rm"], "required arguments were not provided: <NAME>"),
            (&["down", "--purg"], "a similar argument exists: '--purge'"),
        ] {
            let words = ["orchestrator"].iter().chain(words);
            let error = Args::try_parse_from(words).expect_err("it is wrong").to_string();
            let line = one_line(&error);
            assert!(line.contains(says), "{line}");
            assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
        }
    }
}
