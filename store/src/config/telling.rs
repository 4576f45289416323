//! Options about what the store tells of itself: log lines and where they go, and what is slow
//! enough for one.

use std::path::PathBuf;
use std::time::Duration;

use super::flags::Given;
use super::{ConfigError, invalid};

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What is worth a line.
    pub level: tracing::Level,
    /// JSON lines in the shape of etcd's, or plain text.
    pub json: bool,
    /// Where they go: each line to all of them.
    pub outputs: Vec<LogOutput>,
    /// How the one file among them is kept small.
    pub rotation: Option<Rotation>,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// When a log file is put aside, and what becomes of those that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes a file may have.
    #[serde(rename = "maxsize")]
    pub megabytes: u64,
    /// Days that old files are kept; 0: for ever.
    #[serde(rename = "maxage")]
    pub days: u64,
    /// How many old files are kept; 0: all.
    #[serde(rename = "maxbackups")]
    pub files: usize,
    /// Name old files by local time; they are named by UTC all the same.
    #[serde(rename = "localtime")]
    pub local_time: bool,
    /// Compress old files.
    pub compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { megabytes: 100, days: 0, files: 0, local_time: false, compress: false }
    }
}

/// What is slow enough to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowConfig {
    /// A request that takes longer is logged.
    pub request: Duration,
    /// An apply that takes longer is logged.
    pub apply: Duration,
}

pub(super) fn slow(given: &Given) -> SlowConfig {
    const REQUEST_DEFAULT: Duration = Duration::from_millis(300);
    let request = given.time("warning-unary-request-duration");
    SlowConfig {
        request: if request.is_zero() { REQUEST_DEFAULT } else { request },
        apply: given.time("warning-apply-duration"),
    }
}

pub(super) fn log(given: &Given) -> Result<LogConfig, ConfigError> {
    match given.text("logger") {
        "zap" => {}
        "capnslog" => return Err(invalid("--logger=capnslog is removed in v3.5")),
        other => return Err(invalid(format!("unknown logger option {other:?}"))),
    }
    let level = match given.text("log-level") {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        // Nothing is logged above error: what is worse stops the process with its reason.
        "error" | "dpanic" | "panic" | "fatal" => tracing::Level::ERROR,
        other => return Err(invalid(format!("unrecognized level: {other:?}"))),
    };
    let json = match given.text("log-format") {
        "json" => true,
        "console" => false,
        other => {
            return Err(invalid(format!(
                "unknown log format: {other}, supported values json, console"
            )));
        }
    };
    let outputs = outputs(given)?;
    let rotation = match given.switch("enable-log-rotation") {
        true => Some(rotation(given, &outputs)?),
        false => None,
    };
    Ok(LogConfig { level, json, outputs, rotation })
}

const JOURNAL: &str = "systemd/journal";
const ROTATION: &str = "log-rotation-config-json";

fn outputs(given: &Given) -> Result<Vec<LogOutput>, ConfigError> {
    let names = given.list("log-outputs");
    if names.len() > 1 && names.iter().any(|name| name == "default") {
        return Err(invalid("multi logoutput for \"default\" is not supported yet"));
    }
    if names.len() > 1 && names.iter().any(|name| name == JOURNAL) {
        return Err(invalid(format!("--log-outputs: {JOURNAL} cannot have others beside it")));
    }
    let mut outputs = Vec::new();
    for name in names {
        let output = match name.as_str() {
            "default" | "stderr" | JOURNAL => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            // Whoever names it wants silence, whatever else is named.
            "/dev/null" => return Ok(vec![LogOutput::File(PathBuf::from("/dev/null"))]),
            file => LogOutput::File(PathBuf::from(file)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    Ok(outputs)
}

fn rotation(given: &Given, outputs: &[LogOutput]) -> Result<Rotation, ConfigError> {
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count();
    if files != 1 {
        return Err(invalid(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ));
    }
    let rotation: Rotation = serde_json::from_str(given.text(ROTATION))
        .map_err(|error| invalid(format!("improperly formatted log rotation config: {error}")))?;
    // The writer's own default stands in for zero, as in etcd.
    let megabytes = if rotation.megabytes == 0 { 100 } else { rotation.megabytes };
    Ok(Rotation { megabytes, ..rotation })
}

pub(super) fn remarks(given: &Given, say: &mut impl FnMut(String)) {
    if given.list("log-outputs").iter().any(|name| name == JOURNAL) {
        say(format!("{JOURNAL}: lines go to standard error, which systemd brings to the journal"));
    }
    let rotation = given.switch("enable-log-rotation").then(|| given.text(ROTATION));
    if rotation.is_some_and(|json| json.replace(' ', "").contains("\"localtime\":true")) {
        say(format!("--{ROTATION}: localtime changes nothing, old files are named by UTC"));
    }
}
