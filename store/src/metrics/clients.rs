//! Requests by the version of the API that their client says it speaks.
//!
//! The version is a word of the client's, so the number of different ones is bounded: beyond it
//! they are counted together. Looking one up takes no lock, for every request does.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::methods::Shape;
use super::page::{Kind, Page};
use crate::limits::CLIENT_VERSIONS_MAX;

#[derive(Debug, Default)]
struct Counts {
    unary: AtomicU64,
    stream: AtomicU64,
}

/// Counts by version, in the order they came.
#[derive(Debug)]
pub(super) struct ClientCounts {
    unknown: Counts,
    known: [OnceLock<(Box<str>, Counts)>; CLIENT_VERSIONS_MAX],
    other: Counts,
}

impl ClientCounts {
    pub(super) fn new() -> Self {
        Self {
            unknown: Counts::default(),
            known: [const { OnceLock::new() }; CLIENT_VERSIONS_MAX],
            other: Counts::default(),
        }
    }

    /// Notes a request; `None` is a client that says nothing.
    pub(super) fn note(&self, version: Option<&str>, shape: Shape) {
        let counts = self.counts(version);
        let count = if shape == Shape::Unary { &counts.unary } else { &counts.stream };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self, version: Option<&str>) -> &Counts {
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return &self.unknown;
        };
        for place in &self.known {
            let (known, counts) = place.get_or_init(|| (version.into(), Counts::default()));
            if &**known == version {
                return counts;
            }
        }
        &self.other
    }

    pub(super) fn render(&self, page: &mut Page) {
        let name = "etcd_server_client_requests_total";
        page.family(name, Kind::Counter, "Requests by the version that their client speaks.");
        let known = self.known.iter().filter_map(OnceLock::get);
        let known = known.map(|(version, counts)| (&**version, counts));
        for (version, counts) in known.chain([("other", &self.other), ("unknown", &self.unknown)]) {
            for (count, shape) in [(&counts.stream, "stream"), (&counts.unary, "unary")] {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    page.sample(name, &[("client_api_version", version), ("type", shape)], count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_up_to_a_bound() {
        let counts = ClientCounts::new();
        counts.note(None, Shape::BidiStream);
        for nth in 0..CLIENT_VERSIONS_MAX + 2 {
            counts.note(Some(&format!("3.{nth}")), Shape::Unary);
            counts.note(Some("3.0"), Shape::Unary);
        }
        let mut page = Page::new(0);
        counts.render(&mut page);
        let text = page.into_text();
        let line = |version, shape, count| {
            format!(
                "etcd_server_client_requests_total\
                 {{client_api_version=\"{version}\",type=\"{shape}\"}} {count}\n"
            )
        };
        assert!(text.contains(&line("unknown", "stream", 1)));
        assert!(text.contains(&line("3.0", "unary", CLIENT_VERSIONS_MAX + 3)));
        assert!(text.contains(&line("3.1", "unary", 1)));
        assert!(text.contains(&line("other", "unary", 2)));
    }
}
