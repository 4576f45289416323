//! Reading CRI logs: which lines of a container's files somebody asked for, in what form.
//!
//! Pure: [`entry`] takes a line apart, [`Filter`] decides and renders. Files and sockets are the
//! server's.

use jiff::Timestamp;

/// One line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// When the text was read from the container, RFC 3339.
    pub(super) time: &'a str,
    /// `stdout` or `stderr`.
    pub(super) stream: &'a str,
    /// Ends a line of the container's output.
    pub(super) full: bool,
    /// The text, without line end.
    pub(super) text: &'a [u8],
}

/// Takes a line (without its end) apart; `None` if it is no log entry, such as a torn last line.
pub(super) fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry { time, stream, full, text: parts.next()? })
}

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Go on as the container writes.
    pub(super) follow: bool,
    /// The attempt before the latest.
    pub(super) previous: bool,
    /// Prefix each line with its time.
    pub(super) timestamps: bool,
    /// Only so many lines from the end.
    pub(super) tail_lines: Option<u64>,
    /// Only what was written in the last seconds.
    pub(super) since_seconds: Option<i64>,
    /// Only what was written from then on.
    pub(super) since: Option<Timestamp>,
    /// At most so many bytes.
    pub(super) limit_bytes: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub(super) stream: Option<String>,
}

impl Query {
    /// Reads the query part of a request's address.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("{name}: badly escaped"))?;
            let flag = || match value.as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" | "" => Ok(false),
                other => Err(format!("{name}={other} is neither true nor false")),
            };
            let number =
                || value.parse::<u64>().map_err(|_| format!("{name}={value} is not a number"));
            match name {
                "follow" => parsed.follow = flag()?,
                "previous" => parsed.previous = flag()?,
                "timestamps" => parsed.timestamps = flag()?,
                "tailLines" => parsed.tail_lines = Some(number()?),
                "limitBytes" => parsed.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).map_err(|error| error.to_string())?;
                    parsed.since_seconds = Some(seconds);
                }
                "sinceTime" => {
                    let time = value.parse().map_err(|_| format!("{name}={value} is no time"))?;
                    parsed.since = Some(time);
                }
                "stream" => match value.as_str() {
                    "" | "All" => parsed.stream = None,
                    "Stdout" => parsed.stream = Some("stdout".to_owned()),
                    "Stderr" => parsed.stream = Some("stderr".to_owned()),
                    other => return Err(format!("{name}={other} is no stream")),
                },
                // For clients that connect straight to a node; the apiserver checked it.
                "insecureSkipTLSVerifyBackend" | "container" | "pretty" => {}
                other => return Err(format!("unknown parameter {other}")),
            }
        }
        Ok(parsed)
    }
}

/// Undoes percent and plus encoding.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
            }
            plain => bytes.push(plain),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Applies a query to entries in order.
#[derive(Debug)]
pub(super) struct Filter {
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Option<String>,
    /// Lines still to be passed over, so that only the tail is shown.
    skip: u64,
    /// Bytes still to be given out.
    left: Option<u64>,
    /// The next entry begins a line.
    fresh: bool,
}

impl Filter {
    /// A filter for `query` at the time `now`, over files of `lines` lines that the query's other
    /// conditions let through.
    pub(super) fn new(query: &Query, now: Timestamp, lines: u64) -> Self {
        let seconds = query.since_seconds.map(jiff::SignedDuration::from_secs);
        let by_age = seconds.and_then(|age| now.checked_sub(age).ok());
        Self {
            timestamps: query.timestamps,
            since: query.since.max(by_age),
            stream: query.stream.clone(),
            skip: query.tail_lines.map_or(0, |tail| lines.saturating_sub(tail)),
            left: query.limit_bytes,
            fresh: true,
        }
    }

    /// Whether an entry is within the time and the stream asked for.
    pub(super) fn admits(&self, entry: &Entry<'_>) -> bool {
        self.stream.as_deref().is_none_or(|stream| stream == entry.stream)
            && self
                .since
                .is_none_or(|since| entry.time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }

    /// Renders an entry behind what is in `out`; says whether more may be given out.
    pub(super) fn render(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> bool {
        if !self.admits(entry) {
            return true;
        }
        if self.skip > 0 {
            self.skip -= u64::from(entry.full);
            return true;
        }
        let begin = out.len();
        if self.timestamps && self.fresh {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if entry.full {
            out.push(b'\n');
        }
        self.fresh = entry.full;
        let Some(left) = &mut self.left else { return true };
        let given = (out.len() - begin) as u64;
        if given >= *left {
            out.truncate(begin + usize::try_from(*left).unwrap_or(usize::MAX));
            *left = 0;
            return false;
        }
        *left -= given;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n\
                       2026-01-01T00:00:02Z stderr P tw\n\
                       2026-01-01T00:00:03Z stderr F o\n\
                       2026-01-01T00:00:04Z stdout F \n\
                       2026-01-01T00:00:05Z stdout F five 5\n";

    fn read(query: &str) -> String {
        let query = Query::parse(query).expect("a query");
        let now = "2026-01-01T00:00:06Z".parse().expect("a time");
        let entries = || LOG.lines().filter_map(|line| entry(line.as_bytes()));
        let count = Filter::new(&query, now, 0);
        let lines = entries().filter(|one| count.admits(one) && one.full).count();
        let mut filter = Filter::new(&query, now, lines as u64);
        let mut out = Vec::new();
        for one in entries() {
            if !filter.render(&one, &mut out) {
                break;
            }
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_are_joined_and_the_tail_counts_lines() {
        assert_eq!(read(""), "one\ntwo\n\nfive 5\n");
        assert_eq!(read("tailLines=2"), "\nfive 5\n");
        assert_eq!(read("tailLines=0"), "");
        assert_eq!(read("tailLines=99"), "one\ntwo\n\nfive 5\n");
    }

    #[test]
    fn time_stream_and_bytes_limit_what_is_shown() {
        assert_eq!(read("sinceSeconds=2"), "\nfive 5\n");
        assert_eq!(read("sinceTime=2026-01-01T00%3A00%3A05Z"), "five 5\n");
        assert_eq!(read("stream=Stderr&timestamps=true"), "2026-01-01T00:00:02Z two\n");
        assert_eq!(read("limitBytes=5"), "one\nt");
        assert_eq!(read("stream=Stdout&tailLines=1"), "five 5\n");
    }

    #[test]
    fn nonsense_is_refused_and_torn_lines_skipped() {
        assert!(Query::parse("tailLines=-1").is_err());
        assert!(Query::parse("colour=red").is_err());
        assert!(Query::parse("sinceTime=yesterday").is_err());
        assert_eq!(entry(b"2026-01-01T00:00:01Z stdout"), None);
        assert_eq!(entry(b"2026-01-01T00:00:01Z stdout X text"), None);
    }
}
