//! Log lines in the shape of etcd's: one JSON object per line with `level`, `ts`, `caller`, `msg`
//! and the fields, so that whatever reads etcd's logs reads ours.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogOutput};

/// Sends log lines where the configuration wants them, for the rest of the process's life.
pub fn install(config: &LogConfig) {
    // Raft tells its whole life at info; etcd's operators do not expect to read it.
    let level = config.level;
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse_lossy(format!("{level},{}=error,h2=error,hyper=error", crate::raft::LOG_TARGET));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let installed = match (config.json, config.outputs.contains(&LogOutput::Stdout)) {
        (true, false) => builder.event_format(Zap).with_writer(std::io::stderr).try_init(),
        (true, true) => builder.event_format(Zap).with_writer(std::io::stdout).try_init(),
        (false, false) => builder.with_ansi(false).with_writer(std::io::stderr).try_init(),
        (false, true) => builder.with_ansi(false).with_writer(std::io::stdout).try_init(),
    };
    if installed.is_err() {
        tracing::warn!("log lines already have a destination; the configured one is not used");
    }
}

/// The line format of etcd's logger, zap.
struct Zap;

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::TRACE | Level::DEBUG => "debug",
            Level::INFO => "info",
            Level::WARN => "warn",
            Level::ERROR => "error",
        };
        write!(out, "{{\"level\":\"{level}\",\"ts\":\"")?;
        SystemTime.format_time(&mut out)?;
        let file = meta.file().map_or("", |path| path.rsplit_once("src/").map_or(path, |(_, f)| f));
        write!(out, "\",\"caller\":\"{file}:{}\"", meta.line().unwrap_or(0))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(out, ",\"msg\":{}{}", Json(&fields.message), fields.rest)?;
        writeln!(out, "}}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        let name = Json(field.name());
        write!(self.rest, ",{name}:{value}").expect("a String takes everything");
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, &Json(&text).to_string());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, &Json(value).to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.to_string());
    }
}

/// A string as JSON writes it, quotes included.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(Json("a\"b\\c\n\u{1}é").to_string(), r#""a\"b\\c\n\u0001é""#);
    }
}
