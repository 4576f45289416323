//! What is counted of every RPC, whoever serves it: `grpc_server_*` and how long requests take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

use super::methods::{METHODS, Method, Shape, find};
use super::page::{Kind, Page, SECONDS_PER_NANO};
use crate::histogram::{Histogram, nanos};

/// The codes by their numbers, as Go names them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The bounds of `grpc_server_handling_seconds`: Prometheus's own, which do not double.
const HANDLING_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One RPC's counters.
#[derive(Debug, Default)]
struct Call {
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    /// Messages of streams: of a single message one knows without counting.
    received: AtomicU64,
    sent: AtomicU64,
}

impl Call {
    fn received(method: &Method, call: &Self) -> u64 {
        match method.shape {
            Shape::Unary | Shape::ServerStream => load(&call.started),
            Shape::BidiStream => load(&call.received),
        }
    }

    fn sent(method: &Method, call: &Self) -> u64 {
        match method.shape {
            Shape::Unary => load(&call.handled[Code::Ok as usize]),
            Shape::ServerStream | Shape::BidiStream => load(&call.sent),
        }
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// The time an RPC took from its first byte to its last.
#[derive(Debug, Default)]
struct Handling {
    counts: [AtomicU64; HANDLING_BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// How long requests took that ended well, and badly.
#[derive(Debug)]
struct Request {
    name: &'static str,
    method: usize,
    took: [Histogram; 2],
}

/// An RPC whose time is a family of its own.
#[derive(Debug)]
struct Timed {
    path: &'static str,
    family: &'static str,
    labels: &'static [(&'static str, &'static str)],
    help: &'static str,
    took: Histogram,
}

/// The RPCs that are as good as the operation they are for.
fn timed() -> [Timed; 5] {
    let timed = |path, family, labels, help, took| Timed { path, family, labels, help, took };
    let hash = || Histogram::doubling(10_000_000, 15);
    [
        timed(
            "/etcdserverpb.KV/Range",
            "etcd_server_range_duration_seconds",
            &[("success", "true")],
            "Time from a range to its answer.",
            Histogram::of_memory(),
        ),
        timed(
            "/etcdserverpb.Maintenance/Hash",
            "etcd_mvcc_hash_duration_seconds",
            &[],
            "Time to hash the whole store.",
            hash(),
        ),
        timed(
            "/etcdserverpb.Maintenance/HashKV",
            "etcd_mvcc_hash_rev_duration_seconds",
            &[],
            "Time to hash the keys up to a revision.",
            hash(),
        ),
        timed(
            "/etcdserverpb.Maintenance/Defragment",
            "etcd_disk_backend_defrag_duration_seconds",
            &[],
            "Time to defragment the database.",
            Histogram::doubling(100_000_000, 13),
        ),
        timed(
            "/etcdserverpb.Maintenance/Snapshot",
            "etcd_disk_backend_snapshot_duration_seconds",
            &[],
            "Time to make and send a snapshot.",
            Histogram::doubling(10_000_000, 17),
        ),
    ]
}

/// The counters of all RPCs, in the order of the table.
#[derive(Debug)]
pub(super) struct Calls {
    calls: Box<[Call]>,
    /// Only with `--metrics=extensive`: a distribution of every RPC is much to store for whoever
    /// scrapes it.
    handling: Option<Box<[Handling]>>,
    requests: Box<[Request]>,
    timed: [Timed; 5],
    /// Where a method's request and its own family are.
    places: Box<[Places]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Places {
    request: Option<usize>,
    timed: Option<usize>,
}

impl Calls {
    pub(super) fn new(extensive: bool) -> Self {
        let named = METHODS.iter().enumerate();
        let named = named.filter_map(|(method, row)| Some((method, row.request()?)));
        let took = || [Histogram::of_disk(), Histogram::of_disk()];
        let requests: Box<[_]> =
            named.map(|(method, name)| Request { name, method, took: took() }).collect();
        let timed = timed();
        let mut places = vec![Places::default(); METHODS.len()];
        for (at, request) in requests.iter().enumerate() {
            places[request.method].request = Some(at);
        }
        for (at, timed) in timed.iter().enumerate() {
            let method = find(timed.path).expect("these are in the table");
            places[method].timed = Some(at);
        }
        let handling = || METHODS.iter().map(|_| Handling::default()).collect();
        Self {
            calls: METHODS.iter().map(|_| Call::default()).collect(),
            handling: extensive.then(handling),
            requests,
            timed,
            places: places.into(),
        }
    }

    pub(super) fn started(&self, method: usize) {
        self.calls[method].started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn handled(&self, method: usize, code: Code, took: Duration) {
        self.calls[method].handled[code as usize].fetch_add(1, Ordering::Relaxed);
        let Places { request, timed } = self.places[method];
        if let Some(at) = request {
            self.requests[at].took[usize::from(code != Code::Ok)].observe_time(took);
        }
        if let Some(at) = timed.filter(|_| code == Code::Ok) {
            self.timed[at].took.observe_time(took);
        }
        if let Some(handling) = &self.handling {
            let seconds = took.as_secs_f64();
            let place = HANDLING_BOUNDS.partition_point(|bound| *bound < seconds);
            handling[method].counts[place].fetch_add(1, Ordering::Relaxed);
            handling[method].nanos.fetch_add(nanos(took), Ordering::Relaxed);
        }
    }

    pub(super) fn received(&self, method: usize, messages: u64) {
        self.calls[method].received.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, method: usize, messages: u64) {
        self.calls[method].sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// How often a method ended well.
    pub(super) fn succeeded(&self, method: usize) -> u64 {
        self.calls[method].handled[Code::Ok as usize].load(Ordering::Relaxed)
    }

    /// How many calls of a method are on their way.
    pub(super) fn in_flight(&self, method: usize) -> u64 {
        let call = &self.calls[method];
        let ended: u64 = call.handled.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        call.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    pub(super) fn render(&self, page: &mut Page) {
        let simple = |page: &mut Page, name, help, count: fn(&Method, &Call) -> u64| {
            page.family(name, Kind::Counter, help);
            for (method, call) in METHODS.iter().zip(&self.calls) {
                page.sample(name, &labels(method), count(method, call));
            }
        };
        let name = "grpc_server_started_total";
        simple(page, name, "RPCs begun.", |_, call| load(&call.started));
        let name = "grpc_server_msg_received_total";
        simple(page, name, "Messages that came in RPCs.", Call::received);
        let name = "grpc_server_msg_sent_total";
        simple(page, name, "Messages that went out in RPCs.", Call::sent);
        let name = "grpc_server_handled_total";
        page.family(name, Kind::Counter, "RPCs ended, well or not, by code.");
        for (method, call) in METHODS.iter().zip(&self.calls) {
            let [first, second, third] = labels(method);
            for (code, count) in CODES.iter().zip(&call.handled) {
                let labels = [("grpc_code", *code), first, second, third];
                page.sample(name, &labels, count.load(Ordering::Relaxed));
            }
        }
        self.render_handling(page);
        self.render_requests(page);
    }

    fn render_handling(&self, page: &mut Page) {
        let Some(handling) = &self.handling else { return };
        let name = "grpc_server_handling_seconds";
        page.family(name, Kind::Histogram, "Time from an RPC's begin to its end.");
        for (method, times) in METHODS.iter().zip(handling) {
            let labels = labels(method);
            let mut total = 0;
            for (bound, count) in HANDLING_BOUNDS.iter().zip(&times.counts) {
                total += count.load(Ordering::Relaxed);
                page.bucket(name, &labels, &bound.to_string(), total);
            }
            total += times.counts[HANDLING_BOUNDS.len()].load(Ordering::Relaxed);
            page.bucket(name, &labels, "+Inf", total);
            let sum = Duration::from_nanos(times.nanos.load(Ordering::Relaxed));
            page.sum_and_count(name, &labels, sum.as_secs_f64(), total);
        }
    }

    fn render_requests(&self, page: &mut Page) {
        let name = "etcd_server_request_duration_seconds";
        page.family(name, Kind::Histogram, "Time from a request to its answer, by request.");
        for request in &self.requests {
            for (times, success) in request.took.iter().zip(["true", "false"]) {
                if times.count() > 0 {
                    let labels = [("success", success), ("type", request.name)];
                    page.distribution(name, &labels, times, SECONDS_PER_NANO);
                }
            }
        }
        for timed in &self.timed {
            page.family(timed.family, Kind::Histogram, timed.help);
            page.distribution(timed.family, timed.labels, &timed.took, SECONDS_PER_NANO);
        }
    }
}

fn labels(method: &Method) -> [(&'static str, &'static str); 3] {
    [
        ("grpc_method", method.name()),
        ("grpc_service", method.service()),
        ("grpc_type", method.shape.label()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_and_counter() {
        assert_eq!(Code::from_i32(16), Code::Unauthenticated);
        assert_eq!(Code::from_i32(17), Code::Unknown, "16 is the last");
        assert_eq!(CODES[Code::Unauthenticated as usize], "Unauthenticated");
        assert_eq!(CODES[Code::Cancelled as usize], "Canceled", "Go has one l");
    }

    #[test]
    fn what_is_counted_is_shown() {
        let calls = Calls::new(true);
        let put = find("/etcdserverpb.KV/Put").expect("in the table");
        calls.started(put);
        calls.started(put);
        assert_eq!(calls.in_flight(put), 2);
        calls.handled(put, Code::Ok, Duration::from_millis(20));
        calls.handled(put, Code::InvalidArgument, Duration::ZERO);
        assert_eq!((calls.in_flight(put), calls.succeeded(put)), (0, 1));
        let mut page = Page::new(0);
        calls.render(&mut page);
        let text = page.into_text();
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 2"),
            format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{labels}}} 1"),
            format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.01\"}} 1"),
            format!("grpc_server_handling_seconds_bucket{{{labels},le=\"0.025\"}} 2"),
            format!("grpc_server_handling_seconds_sum{{{labels}}} 0.02"),
            "etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"} 1"
                .to_owned(),
            "etcd_server_request_duration_seconds_count{success=\"false\",type=\"Put\"} 1"
                .to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing");
        }
    }
}
