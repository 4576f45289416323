//! Probes: asking a container, from the node, whether it is well.
//!
//! [`Gauge`] is the pure part: it counts answers against the thresholds. [`ask`] is the asking:
//! an HTTP request or a TCP connection to the pod's address.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Slow starters: the others wait for it.
    Startup,
    /// May traffic be sent?
    Readiness,
    /// Should it be restarted?
    Liveness,
}

impl Purpose {
    /// As events word it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The probe of a container for a purpose, if it has one.
pub fn of(container: &Container, purpose: Purpose) -> Option<&Probe> {
    match purpose {
        Purpose::Startup => container.startup_probe.as_ref(),
        Purpose::Readiness => container.readiness_probe.as_ref(),
        Purpose::Liveness => container.liveness_probe.as_ref(),
    }
}

/// A probe's timing, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Before the first question.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
}

/// The timing of a probe.
pub fn timing(probe: &Probe) -> Timing {
    let seconds = |value: Option<i32>, default: u64| {
        let seconds = value.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default);
        Duration::from_secs(seconds)
    };
    let one = Duration::from_secs(1);
    Timing {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(one),
        timeout: seconds(probe.timeout_seconds, 1).max(one),
    }
}

/// Counts answers; tells when the verdict changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauge {
    success_threshold: u32,
    failure_threshold: u32,
    run: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Gauge {
    /// A gauge for `probe`, without a verdict yet.
    pub fn new(probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default: u32| {
            value.and_then(|count| u32::try_from(count).ok()).unwrap_or(default).max(1)
        };
        Self {
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            run: 0,
            last: None,
            verdict: None,
        }
    }

    /// Takes an answer; the verdict, if this answer changed it.
    pub fn take(&mut self, good: bool) -> Option<bool> {
        self.run = if self.last == Some(good) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let threshold = if good { self.success_threshold } else { self.failure_threshold };
        if self.run >= threshold && self.verdict != Some(good) {
            self.verdict = Some(good);
            return Some(good);
        }
        None
    }
}

/// Asks once; the error says what was wrong.
pub async fn ask(probe: &Probe, container: &Container, address: IpAddr) -> Result<(), String> {
    let limit = timing(probe).timeout;
    let asking = async {
        if let Some(get) = &probe.http_get {
            let host = get.host.as_deref().filter(|host| !host.is_empty());
            let target = host.map_or_else(|| address.to_string(), str::to_owned);
            let port = port(&get.port, container)?;
            let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            let headers: Vec<(String, String)> = get
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect();
            return http_get(&target, port, path, &headers).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host = tcp.host.as_deref().filter(|host| !host.is_empty());
            let target = host.map_or_else(|| address.to_string(), str::to_owned);
            let port = port(&tcp.port, container)?;
            return TcpStream::connect((target.as_str(), port))
                .await
                .map(drop)
                .map_err(|error| format!("dial tcp {target}:{port}: {error}"));
        }
        Err("the probe asks in a way this node does not know".to_owned())
    };
    match timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

/// A port by number, or by its name in the container.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("the probe's port {port:?} is none of the container's"))
}

/// One request; any status from 200 to 399 is well. Only the status line is read.
async fn http_get(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let url = format!("http://{host}:{port}{path}");
    let fail = |error: std::io::Error| format!("Get \"{url}\": {error}");
    let mut stream = TcpStream::connect((host, port)).await.map_err(fail)?;
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let named = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    if !named("host") {
        request.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    if !named("user-agent") {
        request.push_str("User-Agent: kube-probe/1.37\r\n");
    }
    for (name, value) in headers {
        if name.contains(['\r', '\n', ':']) || value.contains(['\r', '\n']) {
            return Err(format!("the probe's header {name:?} is no HTTP header"));
        }
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut head = Vec::new();
    let mut chunk = [0_u8; 256];
    while !head.contains(&b'\n') && head.len() < 1024 {
        let length = stream.read(&mut chunk).await.map_err(fail)?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..length]);
    }
    let line = String::from_utf8_lossy(&head);
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    match code {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get \"{url}\": the answer is not HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verdicts_change_only_after_enough_equal_answers() {
        let probe = serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3}))
            .expect("a probe");
        let mut gauge = Gauge::new(&probe);
        let answers = [true, false, true, true, true, false, false, true, false, false, false];
        let verdicts: Vec<_> = answers.into_iter().map(|good| gauge.take(good)).collect();
        let mut expected = vec![None; answers.len()];
        expected[3] = Some(true);
        expected[10] = Some(false);
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn ports_go_by_name_too() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}),
        )
        .expect("a container");
        assert_eq!(port(&IntOrString::String("web".into()), &container), Ok(80));
        assert_eq!(port(&IntOrString::Int(81), &container), Ok(81));
        assert!(port(&IntOrString::String("no".into()), &container).is_err());
    }

    #[tokio::test]
    async fn answers_are_judged_by_their_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = listener.local_addr().expect("has an address");
        let server = async {
            for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 Oh\r\n\r\n", "hello\n"]
            {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                stream.write_all(answer.as_bytes()).await.expect("writes");
                let mut rest = [0_u8; 512];
                let _ = stream.read(&mut rest).await;
            }
        };
        let client = async {
            let probe =
                serde_json::from_value(json!({"httpGet": {"port": at.port()}})).expect("one");
            let container = serde_json::from_value(json!({"name": "c"})).expect("one");
            let mut answers = Vec::new();
            for _ in 0..3 {
                answers.push(ask(&probe, &container, at.ip()).await.is_ok());
            }
            answers
        };
        let ((), answers) = tokio::join!(server, client);
        assert_eq!(answers, [true, false, false]);
    }
}
