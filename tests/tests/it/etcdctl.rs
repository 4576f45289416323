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
//! and remembers a lease, which later arguments name as `@NAME`; `stdin INPUT 'ARGS'` feeds INPUT to
//! a command, and `talk INPUT 'ARGS' LINES` to one that goes on, as a watch does; `formats [INPUT]
//! 'ARGS'` runs it with each output format, whose name is `@FORMAT`; `report 'ARGS'` keeps the words
//! and not the figures; `pause` waits for what says nothing; `at 'ENDPOINTS' 'ARGS'` asks elsewhere;
//! `env 'NAME=VALUE …' 'ARGS'` sets variables, that of the endpoint too; `twin` starts a second
//! server, which later arguments name as `@TWIN` and `twin 'ARGS'` asks; `secure` starts one that
//! speaks TLS, `@SECURE`, and `secure NAME 'ARGS'` asks it by the certificate of that name, or of
//! `nobody`; `save` saves a snapshot and has `etcdutl` judge it. `@DIR` is the test's folder,
//! `@ENDPOINT` the server. What no two runs have in common is masked.

mod formats;
mod mask;
mod used;

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use goldenscript::{Argument, Context};
use tests::authority::Authority;
use tests::process::eventually;
use tests::server::{Program, Server};
use tests::tools;

use self::formats::{FORMATS, legible};

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
    // Scripts about users log in with nearly every command.
    let flags = ["--bcrypt-cost=4", "--watch-progress-notify-interval=1s"];
    let server = Server::start(program(), &dir.path().join("data"), &flags);
    let leases = Vec::new();
    let mut runner = Runner { server, twin: None, secure: None, dir, watch: None, leases };
    let path = format!("{}/tests/it/etcdctl/{name}.script", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut runner, path).expect("the script's answers match");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(#[test] fn $name() { script(stringify!($name)); })* };
}

scripts!(
    put_get,
    get_options,
    get_stream,
    delete,
    txn,
    watch,
    watch_interactive,
    lease,
    compaction,
    endpoint,
    endpoint_status,
    errors,
    formats,
    utility,
    concurrency,
    maintenance,
    auth,
    mirror,
    check,
    snapshot,
    permissions,
    each_format,
    environment,
    secure,
    secure_mirror,
);

/// A minute for each workload, so only when asked for: `cargo test -p tests etcdctl -- --ignored`.
#[test]
#[ignore = "takes minutes, and a machine that does nothing else"]
fn check_perf() {
    script("check_perf");
}

struct Watch {
    child: Child,
    args: String,
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
    twin: Option<Server>,
    secure: Option<Server>,
    dir: tempfile::TempDir,
    watch: Option<Watch>,
    leases: Vec<(String, String)>,
}

impl Runner {
    fn command(&self, version: &str, args: &str) -> Command {
        self.command_to("@ENDPOINT", version, args)
    }

    /// The endpoints stand first: what follows `--` is another command's.
    fn command_to(&self, endpoints: &str, version: &str, args: &str) -> Command {
        let endpoints = format!("--endpoints={}", self.filled(endpoints));
        self.with_first(&[endpoints], version, args)
    }

    fn with_first(&self, first: &[String], version: &str, args: &str) -> Command {
        let mut command = Command::new(tools::required(&format!("etcdctl-{version}")));
        command.env("ETCDCTL_API", "3").args(first);
        command.args(words(args).iter().map(|word| self.filled(word)));
        command
    }

    /// A word with what is known by names put in.
    fn filled(&self, word: &str) -> String {
        if let Some((_, id)) = self.leases.iter().find(|(name, _)| word == format!("@{name}")) {
            return id.clone();
        }
        let twin = self.twin.as_ref().map_or("", |twin| &twin.endpoint);
        let secure = self.secure.as_ref().map(Server::url).unwrap_or_default();
        word.replace("@DIR", &self.dir.path().display().to_string())
            .replace("@TWIN", twin)
            .replace("@SECURE", &secure)
            .replace("@ENDPOINT", &self.server.endpoint)
    }

    fn run_to_end(&self, version: &str, args: &str, input: &str) -> Result<String, Box<dyn Error>> {
        self.finish(self.command(version, args), args, input)
    }

    fn finish(
        &self,
        mut command: Command,
        args: &str,
        input: &str,
    ) -> Result<String, Box<dyn Error>> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // One that has nothing to ask may have ended already.
        let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        let mut text = legible(args, &output.stdout);
        // Logs go to the error output, and stand in lines of their own.
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&String::from_utf8(output.stderr)?);
        if !output.status.success() {
            text.push_str(&format!("\nexit {}\n", output.status.code().unwrap_or(-1)));
        }
        Ok(self.mask(&text))
    }

    /// Each format in turn; `@FORMAT` is its name.
    fn formats(&self, input: &str, args: &str) -> Result<String, Box<dyn Error>> {
        let mut text = String::new();
        for format in FORMATS {
            let args = format!("-w {format} {}", args.replace("@FORMAT", format));
            text.push_str(&format!("{format}:\n"));
            let answer = self.run_to_end("3.7", &args, input)?;
            text.extend(answer.lines().map(|line| mask::leases(line) + "\n"));
        }
        Ok(text)
    }

    /// Asks the secure server by the certificate of that name; by none if it is `nobody`.
    fn ask_secure(&self, name: &str, args: &str) -> Result<String, Box<dyn Error>> {
        let pair = format!("--cert=@DIR/{name}.pem --key=@DIR/{name}.key");
        let pair = if name == "nobody" { "" } else { &pair };
        let args = format!("--cacert=@DIR/ca.pem {pair} {args}");
        self.finish(self.command_to("@SECURE", "3.7", &args), &args, "")
    }

    /// Sets `NAME=VALUE` pairs in the environment, and the endpoint there too.
    fn ask_by_variables(&self, variables: &str, args: &str) -> Result<String, Box<dyn Error>> {
        let mut command = self.with_first(&[], "3.7", args);
        command.env("ETCDCTL_ENDPOINTS", &self.server.endpoint);
        let pairs = variables.split(' ').filter_map(|pair| pair.split_once('='));
        command.envs(pairs.map(|(name, value)| (name, self.filled(value))));
        self.finish(command, args, "")
    }

    /// Starts a server that speaks TLS, wants certificates, and knows names by them.
    fn start_secure(&mut self) {
        let dir = self.dir.path();
        let authority = Authority::new(&dir.join("ca.pem"));
        authority.sign_nameless(&dir.join("server"));
        for name in ["root", "alice"] {
            authority.sign_named(&dir.join(name), name);
        }
        Authority::new(&dir.join("stranger-ca.pem")).sign_named(&dir.join("stranger"), "root");
        let flags = ["--bcrypt-cost=4"];
        self.secure = Some(Server::start_secure(program(), &dir.join("secure"), dir, &flags));
    }

    /// Saves a snapshot and lets etcd's own tool look at it.
    fn save(&self) -> Result<String, Box<dyn Error>> {
        let path = self.dir.path().join("snapshot.db");
        let mut text = self.run_to_end("3.7", &format!("snapshot save {}", path.display()), "")?;
        let mut command = Command::new(tools::required("etcdutl-3.7"));
        command.args(["snapshot", "status", "-w", "json"]).arg(&path);
        let status = self.finish(command, "", "")?;
        // The hash is of the file, which is laid out as each server likes.
        let hash = status.find("\"hash\":").ok_or_else(|| status.clone())?;
        let end = status[hash..].find(',').map_or(status.len(), |end| hash + end);
        text.push_str(&status.replace(&status[hash..end], "\"hash\":*"));
        Ok(text)
    }

    /// Hides what differs between two runs of the same server.
    fn mask(&self, text: &str) -> String {
        let mut text = text
            .replace(&self.server.endpoint, "ENDPOINT")
            .replace(&self.dir.path().display().to_string(), "DIR");
        if let Some(twin) = &self.twin {
            text = text.replace(&twin.endpoint, "TWIN");
        }
        if let Some(secure) = &self.secure {
            text = text.replace(&secure.endpoint, "SECURE");
        }
        for (name, id) in &self.leases {
            text = text.replace(id, &format!("@{name}"));
            let decimal = i64::from_str_radix(id, 16).expect("etcdctl prints lease ids in hex");
            text = text.replace(&decimal.to_string(), &format!("@{name}"));
        }
        // etcdctl 3.7 logs its retries and warnings as JSON lines with a time stamp.
        text.lines()
            .filter(|line| !line.starts_with("{\"level\"") && !line.is_empty())
            .map(|line| mask::line(line) + "\n")
            .collect()
    }

    /// Starts a command that goes on, with `input` before it on a stdin that stays open.
    fn start(&mut self, args: &str, lines: usize, input: &str) -> Result<String, Box<dyn Error>> {
        let output = self.dir.path().join("watch.txt");
        let mut child = self
            .command("3.7", args)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&output)?)
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.as_mut().expect("stdin is piped").write_all(input.as_bytes())?;
        self.watch = Some(Watch { child, args: args.to_owned(), output, lines });
        // Until the watch is registered, "from now" is not yet now.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok(String::new())
    }

    fn end_watch(&mut self) -> Result<String, Box<dyn Error>> {
        let watch = self.watch.take().ok_or("no watch is running")?;
        let text = eventually("the watch prints its lines", || {
            let text = legible(&watch.args, &fs::read(&watch.output).unwrap_or_default());
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
            ("watch", [args, lines]) => self.start(&format!("watch {args}"), lines.parse()?, ""),
            ("talk", [input, args, lines]) => self.start(args, lines.parse()?, input),
            ("formats", [args]) => self.formats("", args),
            ("formats", [input, args]) => self.formats(input, args),
            ("at", [endpoints, args]) => {
                self.finish(self.command_to(endpoints, "3.7", args), args, "")
            }
            ("env", [variables, args]) => self.ask_by_variables(variables, args),
            ("secure", []) => {
                self.start_secure();
                Ok(String::new())
            }
            ("secure", [name, args]) => self.ask_secure(name, args),
            ("save", []) => self.save(),
            ("report", [args]) => Ok(shape(&self.run_to_end("3.7", args, "")?)),
            ("pause", []) => {
                // A mirror says nothing when it has caught up.
                std::thread::sleep(std::time::Duration::from_secs(2));
                Ok(String::new())
            }
            ("twin", []) => {
                let dir = self.dir.path().join("twin");
                self.twin = Some(Server::start(program(), &dir, &[]));
                Ok(String::new())
            }
            ("twin", [args]) => {
                let twin = self.twin.as_ref().ok_or("no twin is running")?;
                self.finish(self.command_to(&twin.endpoint, "3.7", args), args, "")
            }
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

/// A report without its figures and its progress bar.
fn shape(text: &str) -> String {
    let lines = text.split(['\n', '\r']).filter(|line| !line.contains('%') && !line.is_empty());
    let lines = lines.map(|line| {
        let figures = |c: char| c.is_ascii_digit() || c == '.';
        let mut shaped = String::new();
        for c in line.chars() {
            match c {
                c if figures(c) && shaped.ends_with('*') => {}
                c if figures(c) => shaped.push('*'),
                c => shaped.push(c),
            }
        }
        shaped + "\n"
    });
    lines.collect()
}
