//! The real `etcdctl`, 3.4 and 3.7, against the real server.
//!
//! The scripts in `etcdctl/` hold commands and the answers that etcd 3.7.3 gave: they were recorded
//! from it, so the goal is that nobody can tell which server answers. To record again, or to see
//! that etcd itself still passes:
//!
//! ```sh
//! TESTS_PEER=etcd-3.7 [UPDATE_GOLDENFILES=1] cargo test -p tests etcdctl
//! ```
//!
//! Script commands: `ctl 'ARGS'` runs etcdctl 3.7, `ctl34 'ARGS'` runs 3.4; `txn 'COMPARES'
//! 'SUCCESS' 'FAILURE'` feeds an interactive transaction; `watch 'ARGS' LINES` starts a watch, and
//! `watched` waits until it has printed that many lines and ends it; `lease NAME 'ARGS'` grants
//! and remembers a lease, which later arguments name as `@NAME`. Ports and member-specific sizes
//! are masked.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use goldenscript::{Argument, Context};
use tests::process::eventually;
use tests::server::{Program, Server};
use tests::tools;

fn program() -> Program {
    match std::env::var("TESTS_PEER") {
        Ok(peer) => Program::Peer(tools::required(&peer)),
        Err(_) => Program::Ours,
    }
}

/// Runs one script against a fresh server.
fn script(name: &str) {
    let scripts = ["etcdctl-3.4", "etcdctl-3.7"].map(tools::theirs);
    if scripts.iter().any(Option::is_none) {
        tests::skip(&format!("etcdctl::{name}"), "needs etcdctl 3.4 and 3.7");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program(), &dir.path().join("data"), &[]);
    let mut runner = Runner { server, dir, watch: None, leases: Vec::new() };
    let path = format!("{}/tests/it/etcdctl/{name}.script", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut runner, path).expect("the script's answers match");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(#[test] fn $name() { script(stringify!($name)); })* };
}

scripts!(put_get, get_options, delete, txn, watch, lease, compaction, endpoint, errors);

/// Numbers that depend on the clock or on how often the server was started.
const MASKED: [&str; 3] = ["\"raft_term\":", "\"RaftTerm\" : ", "\"ttl\":"];

struct Watch {
    child: Child,
    output: PathBuf,
    lines: usize,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Runner {
    server: Server,
    dir: tempfile::TempDir,
    watch: Option<Watch>,
    leases: Vec<(String, String)>,
}

impl Runner {
    fn command(&self, version: &str, args: &str) -> Command {
        let mut command = Command::new(tools::required(&format!("etcdctl-{version}")));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.server.endpoint));
        for word in words(args) {
            let lease = self.leases.iter().find(|(name, _)| word == format!("@{name}"));
            command.arg(lease.map_or(word.as_str(), |(_, id)| id));
        }
        command
    }

    fn run_to_end(&self, version: &str, args: &str, input: &str) -> Result<String, Box<dyn Error>> {
        let mut child = self
            .command(version, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let mut text = String::from_utf8(output.stdout)?;
        text.push_str(&String::from_utf8(output.stderr)?);
        if !output.status.success() {
            text.push_str(&format!("\nexit {}\n", output.status.code().unwrap_or(-1)));
        }
        Ok(self.mask(&text))
    }

    /// Hides what differs between two runs of the same server.
    fn mask(&self, text: &str) -> String {
        let mut text = text.replace(&self.server.endpoint, "ENDPOINT");
        for (name, id) in &self.leases {
            text = text.replace(id, &format!("@{name}"));
            let decimal = i64::from_str_radix(id, 16).expect("etcdctl prints lease ids in hex");
            text = text.replace(&decimal.to_string(), &format!("@{name}"));
        }
        // etcdctl 3.7 logs its retries and warnings as JSON lines with a time stamp.
        text.lines()
            .filter(|line| !line.starts_with("{\"level\"") && !line.is_empty())
            .map(|line| {
                let masked =
                    MASKED.iter().fold(line.to_string(), |line, name| mask_field(&line, name));
                masked + "\n"
            })
            .collect()
    }

    fn start_watch(&mut self, args: &str, lines: usize) -> Result<String, Box<dyn Error>> {
        let output = self.dir.path().join("watch.txt");
        let child = self
            .command("3.7", &format!("watch {args}"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&output)?)
            .stderr(Stdio::null())
            .spawn()?;
        self.watch = Some(Watch { child, output, lines });
        // Until the watch is registered, "from now" is not yet now.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok(String::new())
    }

    fn end_watch(&mut self) -> Result<String, Box<dyn Error>> {
        let watch = self.watch.take().ok_or("no watch is running")?;
        let text = eventually("the watch prints its lines", || {
            let text = fs::read_to_string(&watch.output).unwrap_or_default();
            (text.lines().count() >= watch.lines).then_some(text)
        });
        Ok(self.mask(&text))
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let args: Vec<&str> = command
            .args
            .iter()
            .map(|arg| match arg {
                Argument::Positional(value) => Ok(value.as_str()),
                other => Err(format!("quote the argument {other}")),
            })
            .collect::<Result<_, _>>()?;
        match (command.name.as_str(), args.as_slice()) {
            ("ctl", [args]) => self.run_to_end("3.7", args, ""),
            ("ctl34", [args]) => self.run_to_end("3.4", args, ""),
            ("stdin", [input, args]) => self.run_to_end("3.7", args, input),
            ("txn", [compares, success, failure]) => {
                // Each section ends with an empty line, and an empty one is nothing else.
                let section =
                    |text: &str| format!("{text}\n{}", if text.is_empty() { "" } else { "\n" });
                let input = [compares, success, failure].map(|text| section(text)).concat();
                self.run_to_end("3.7", "txn", &input)
            }
            ("watch", [args, lines]) => self.start_watch(args, lines.parse()?),
            ("watched", []) => self.end_watch(),
            ("lease", [name, args]) => {
                let answer = self.run_to_end("3.7", &format!("lease grant {args}"), "")?;
                let id = answer.split(' ').nth(1).ok_or("no lease id in the answer")?.to_string();
                self.leases.push(((*name).to_string(), id));
                Ok(self.mask(&answer))
            }
            ("restart", []) => {
                self.server.process.stop();
                self.server.restart();
                Ok(String::new())
            }
            (name, args) => {
                Err(format!("unknown command {name} with {} arguments", args.len()).into())
            }
        }
    }
}

/// Splits as a shell would where words hold no quotes but `"`.
fn words(args: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for c in args.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Replaces the number behind `name` by a star.
fn mask_field(line: &str, name: &str) -> String {
    let Some(at) = line.find(name) else { return line.to_string() };
    let (head, tail) = line.split_at(at + name.len());
    let rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{head}*{}", mask_field(rest, name))
}
