//! Log lines: what is worth one, in which format, and where they go.
//!
//! A line goes to every configured place at once, whole, from the thread that says it. That makes
//! a full pipe or a slow disk felt, as in etcd; but a line that cannot be written is lost rather
//! than anything stopped: the data matter more than the diary.
//!
//! Lines tell sizes, counts, names of users and addresses. They never tell keys, values, passwords
//! or tokens.

mod file;
mod zap;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogOutput};
use file::LogFile;
use zap::Zap;

/// Why lines cannot go where they should.
#[derive(Debug, thiserror::Error)]
#[error("--log-outputs: {path}", path = .path.display())]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Sends log lines where the configuration wants them, for the rest of the process's life.
pub fn install(config: &LogConfig) -> Result<(), LogError> {
    // Raft tells its whole life at info; etcd's operators do not expect to read it.
    let level = config.level;
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse_lossy(format!("{level},{},h2=error,hyper=error", crate::raft::LOG_FILTER));
    let format = if config.json { Zap::Json } else { Zap::Console };
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .event_format(format)
        .with_writer(Places::open(config)?)
        .try_init();
    if installed.is_err() {
        tracing::warn!("log lines already have a destination; the configured one is not used");
    }
    Ok(())
}

/// Everywhere that lines go.
#[derive(Clone)]
struct Places(Arc<[Place]>);

enum Place {
    Stderr,
    Stdout,
    File(Mutex<LogFile>),
}

impl Places {
    fn open(config: &LogConfig) -> Result<Self, LogError> {
        let places = config.outputs.iter().map(|output| match output {
            LogOutput::Stderr => Ok(Place::Stderr),
            LogOutput::Stdout => Ok(Place::Stdout),
            LogOutput::File(path) => LogFile::open(path.clone(), config.rotation)
                .map(|file| Place::File(Mutex::new(file)))
                .map_err(|source| LogError { path: path.clone(), source }),
        });
        Ok(Self(places.collect::<Result<_, _>>()?))
    }
}

impl<'a> MakeWriter<'a> for Places {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &Places {
    /// Takes one whole line, which is how tracing calls it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for place in &*self.0 {
            // A place that fails must not keep the line from the others.
            let _ = match place {
                Place::Stderr => io::stderr().write_all(line),
                Place::Stdout => io::stdout().write_all(line),
                Place::File(file) => {
                    file.lock().unwrap_or_else(PoisonError::into_inner).write_line(line)
                }
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A duration as Go prints it, to three digits after the point: `1.5s`, `320.125ms`.
pub(crate) fn go_duration(time: Duration) -> String {
    let micros = time.as_micros();
    if micros == 0 && !time.is_zero() {
        return format!("{}ns", time.as_nanos());
    }
    let (whole, part, unit) = match micros {
        0..1_000 => (micros, 0, "µs"),
        1_000..1_000_000 => (micros / 1_000, micros % 1_000, "ms"),
        _ => (micros / 1_000_000, micros / 1_000 % 1_000, "s"),
    };
    if part == 0 {
        return format!("{whole}{unit}");
    }
    let part = format!("{part:03}");
    format!("{whole}.{}{unit}", part.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn durations_are_gos() {
        for (micros, text) in
            [(0, "0µs"), (7, "7µs"), (1_500, "1.5ms"), (320_125, "320.125ms"), (2_010_000, "2.01s")]
        {
            assert_eq!(go_duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_line_goes_to_every_file_in_the_chosen_format() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let mut config = Config::new("x", PathBuf::new()).log;
        config.outputs = vec![LogOutput::File(one.clone()), LogOutput::File(two.clone())];
        for (format, parts) in [
            (
                Zap::Json,
                [r#"{"level":"warn","ts":""#, r#","msg":"slow \"one\"","took":"1s","n":3}"#],
            ),
            (Zap::Console, ["\twarn\t", "\tslow \"one\"\t{\"took\": \"1s\", \"n\": 3}"]),
        ] {
            let places = Places::open(&config).expect("the folder is there");
            let subscriber =
                tracing_subscriber::fmt().event_format(format).with_writer(places).finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(took = "1s", n = 3, "slow \"one\"");
            });
            let line = std::fs::read_to_string(&one).expect("written");
            let last = line.lines().last().expect("a line");
            assert!(parts.iter().all(|part| last.contains(part)), "{last}");
            assert_eq!(line, std::fs::read_to_string(&two).expect("written"));
        }
        config.outputs = vec![LogOutput::File(dir.path().join("no/such/folder/x"))];
        let Err(error) = Places::open(&config) else { panic!("there is no such folder") };
        assert!(error.to_string().contains("no/such/folder"), "{error}");
    }
}
