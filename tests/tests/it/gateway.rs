//! The JSON gateway and the pages beside it, as a script with `curl` sees them.
//!
//! The scripts in `gateway/` hold requests and the answers that etcd 3.7.3 gave. To record again, or
//! to see that etcd itself still passes:
//!
//! ```sh
//! TESTS_PEER=etcd-3.7 [UPDATE_GOLDENFILES=1] cargo test -p tests gateway
//! ```
//!
//! Script commands: `post PATH 'JSON'` posts below `/v3/` and prints the status and the answer, one
//! line per message; with `lines=N` it reads so many lines of a stream and hangs up. `with='HEADER'`
//! adds a header. `ask METHOD PATH` prints the status, the headers that mean something, and the
//! body. `login NAME PASSWORD` sends the token of that user from then on, `logout` none.
//!
//! JSON is printed in a normal form: Go varies the space in it from build to build. Numbers that
//! depend on the clock or the machine are masked, and so are the words for broken JSON, which are
//! the parser's own.

use std::error::Error;

use goldenscript::{Argument, Context};
use serde_json::Value;
use tests::http::{self, Answer};
use tests::server::{Program, Server};
use tests::tools;

fn program() -> Program {
    match std::env::var("TESTS_PEER") {
        Ok(peer) => Program::Peer(tools::required(&peer)),
        Err(_) => Program::Ours,
    }
}

/// Runs one script against a fresh server.
fn script(name: &str, flags: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program(), &dir.path().join("data"), flags);
    let mut runner = Runner { server, token: None };
    let path = format!("{}/tests/it/gateway/{name}.script", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut runner, path).expect("the script's answers match");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => { $(#[test] fn $name() { script(stringify!($name), &[]); })* };
}

scripts!(kv, txn, watch, lease, input, pages, maintenance, cluster, limits, auth, locks);

#[test]
fn lists() {
    script("lists", &["--cors=http://ours:80", "--host-whitelist=ours,127.0.0.1"]);
}

#[test]
fn off() {
    script("off", &["--enable-grpc-gateway=false"]);
}

struct Runner {
    server: Server,
    token: Option<String>,
}

impl Runner {
    fn post(&self, path: &str, json: &str, with: Option<&str>) -> Answer {
        let token = self.token.as_ref().map(|token| format!("Authorization: {token}"));
        let headers: Vec<&str> = token.as_deref().into_iter().chain(with).collect();
        http::send(&self.server.endpoint, "POST", &format!("/v3/{path}"), &headers, json)
    }

    fn say(&self, mut answer: Answer, lines: Option<usize>) -> Result<String, Box<dyn Error>> {
        let mut text = format!("{}\n", answer.status);
        for _ in 0..lines.unwrap_or(usize::MAX) {
            let Some(line) = answer.line() else { break };
            let json: Value =
                serde_json::from_str(&line).map_err(|error| format!("{error} in {line:?}"))?;
            text.push_str(&format!("{}\n", self.normal(json)));
        }
        Ok(text)
    }

    fn normal(&self, mut json: Value) -> Value {
        mask(&mut json);
        let text = json.to_string().replace(&self.server.endpoint, "ENDPOINT");
        // Go varies this space too.
        let text = text.replace("  alarm:", " alarm:");
        serde_json::from_str(&text).expect("it was JSON")
    }

    fn ask(&self, method: &str, path: &str, with: Option<&str>) -> String {
        let headers: Vec<&str> = with.into_iter().collect();
        let answer = http::send(&self.server.endpoint, method, path, &headers, "");
        let mut text = format!("{}\n", answer.status);
        let mut told: Vec<String> = answer
            .headers
            .iter()
            .filter(|(name, _)| !IDLE_HEADERS.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect();
        told.sort();
        text.push_str(&told.concat());
        if answer.status == 421 || path == "/version" && answer.status == 200 {
            // Own words and own versions.
            return text + "…";
        }
        let body = answer.text();
        match serde_json::from_str(&body) {
            Ok(json) if path.starts_with("/v3") => format!("{text}{}\n", self.normal(json)),
            _ => text + &body,
        }
    }
}

/// Headers that tell nothing about the answer.
const IDLE_HEADERS: [&str; 4] = ["date", "content-length", "transfer-encoding", "connection"];

/// Fields that depend on the clock, on the machine, or on the version.
const MASKED: [&str; 10] = [
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "token",
    "hash",
    "blob",
    "clientURLs",
];

fn mask(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            // Of a snapshot, which is of one piece or of several.
            fields.remove("remaining_bytes");
            for (name, value) in fields.iter_mut() {
                let is_masked = match name.as_str() {
                    // Of a key it is how often it was written, and that is compared.
                    "version" => value.as_str().is_some_and(|text| text.contains('.')),
                    "TTL" => value.as_str().is_some_and(|text| text.len() > 2),
                    name => MASKED.contains(&name),
                };
                let is_own_text = name == "message" && is_of_a_parser(value);
                if is_masked || is_own_text {
                    *value = Value::from("*");
                } else {
                    mask(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// Words for broken input: those of the store begin with its name.
fn is_of_a_parser(value: &Value) -> bool {
    let known = [
        "etcdserver: ",
        "Not Found",
        "Method Not Allowed",
        "grpc: ",
        "\"leader\"",
        "election: ",
        "context ",
        "invalid grpc-timeout",
    ];
    value.as_str().is_some_and(|text| !known.iter().any(|known| text.starts_with(known)))
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut words = Vec::new();
        let (mut lines, mut with) = (None, None);
        for arg in &command.args {
            match arg {
                Argument::Positional(value) => words.push(value.as_str()),
                Argument::KeyValue(key, value) if key == "lines" => lines = Some(value.parse()?),
                Argument::KeyValue(key, value) if key == "with" => with = Some(value.as_str()),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        match (command.name.as_str(), words.as_slice()) {
            ("post", [path]) => self.say(self.post(path, "", with), lines),
            ("post", [path, json]) => self.say(self.post(path, json, with), lines),
            ("ask", [method, path]) => Ok(self.ask(method, path, with)),
            ("login", [name, password]) => {
                let json = format!("{{\"name\":\"{name}\",\"password\":\"{password}\"}}");
                let answer = self.post("auth/authenticate", &json, None).text();
                let answer: Value = serde_json::from_str(&answer)?;
                let token = answer["token"].as_str().ok_or("no token in the answer")?;
                self.token = Some(token.to_owned());
                Ok(String::new())
            }
            ("logout", []) => {
                self.token = None;
                Ok(String::new())
            }
            (name, words) => {
                Err(format!("unknown command {name} with {} arguments", words.len()).into())
            }
        }
    }
}
