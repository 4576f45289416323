//! The line formats of etcd's logger, zap: one JSON object per line with `level`, `ts`, `caller`,
//! `msg` and the fields, or the same as columns for people. Whatever reads etcd's logs reads ours.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A line format.
pub(super) enum Zap {
    /// For programs.
    Json,
    /// For people.
    Console,
}

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
        let mut fields = Fields::new(matches!(self, Self::Console));
        event.record(&mut fields);
        let Fields { message, rest, .. } = fields;
        let (level, caller) = (level(*meta.level()), Caller(meta));
        match self {
            Self::Json => {
                write!(out, "{{\"level\":\"{level}\",\"ts\":\"")?;
                SystemTime.format_time(&mut out)?;
                let message = Json(&message);
                writeln!(out, "\",\"caller\":\"{caller}\",\"msg\":{message}{rest}}}")
            }
            Self::Console => {
                SystemTime.format_time(&mut out)?;
                write!(out, "\t{level}\t{caller}\t{}", OneLine(&message))?;
                match rest.strip_prefix(", ") {
                    Some(rest) => writeln!(out, "\t{{{rest}}}"),
                    None => writeln!(out),
                }
            }
        }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::TRACE | Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

/// `folder/file.rs:line`, from where our sources begin.
struct Caller<'a>(&'a Metadata<'a>);

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.file().unwrap_or("");
        let file = path.rsplit_once("src/").map_or(path, |(_, file)| file);
        write!(f, "{file}:{}", self.0.line().unwrap_or(0))
    }
}

/// An event's message, and its fields as the inside of a JSON object after a comma.
struct Fields {
    message: String,
    rest: String,
    /// zap puts blanks between the fields of a console line.
    spaced: bool,
}

impl Fields {
    fn new(spaced: bool) -> Self {
        Self { message: String::new(), rest: String::new(), spaced }
    }

    fn add(&mut self, field: &Field, value: impl fmt::Display) {
        let name = Json(field.name());
        let blank = if self.spaced { " " } else { "" };
        write!(self.rest, ",{blank}{name}:{blank}{value}").expect("a String takes everything");
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Json(&text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, Json(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// A message that cannot break out of its line: whoever sends odd bytes must not be able to write
/// lines of his own.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
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
    use super::{Json, OneLine};

    #[test]
    fn strings_are_escaped() {
        assert_eq!(Json("a\"b\\c\n\u{1}é").to_string(), r#""a\"b\\c\n\u0001é""#);
        assert_eq!(OneLine("a\nb\u{1b}[0m").to_string(), r"a\nb\u{1b}[0m");
    }
}
