//! Configuration: command lines, environments, files.
//!
//! Flags of etcd's with values that are almost right, in every form that Go's flags know, and
//! configuration files with lines damaged. Nothing may panic, and a refusal is one line that says
//! what to do, however odd the input.

use store::config::Config;

use crate::Random;

const FLAGS: [&str; 26] = [
    "name",
    "data-dir",
    "wal-dir",
    "listen-client-urls",
    "listen-peer-urls",
    "advertise-client-urls",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "quota-backend-bytes",
    "heartbeat-interval",
    "election-timeout",
    "max-request-bytes",
    "max-txn-ops",
    "snapshot-count",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "auth-token",
    "auth-token-ttl",
    "bcrypt-cost",
    "feature-gates",
    "cipher-suites",
    "tls-min-version",
    "log-level",
    "cors",
    "no-such-flag",
];
const VALUES: [&str; 30] = [
    "",
    "0",
    "-1",
    "1",
    "true",
    "false",
    "5h",
    "1h30m",
    "-5s",
    "9999999999999999999",
    "1e9",
    "NaN",
    "http://127.0.0.1:2379",
    "http://[::1]:2379",
    "https://localhost:0",
    "http://127.0.0.1:99999",
    "unix:///tmp/s",
    "http://",
    "http://a:b:c",
    "default=http://localhost:2380",
    "a=b=c",
    ",,,",
    "periodic",
    "revision",
    "jwt,sign-method=RS256,pub-key=/none",
    "jwt,=,",
    "AllAlpha=true,X=maybe",
    "TLS_AES_128_GCM_SHA256",
    "TLS1.3",
    "\u{0}\u{1F980}",
];

fn value(random: &mut Random) -> String {
    let mut value = VALUES[random.below(VALUES.len())].to_string();
    if random.below(4) == 0 {
        value.push_str(VALUES[random.below(VALUES.len())]);
    }
    value
}

/// A command line and an environment.
pub fn seed(seed: u64) {
    let mut random = Random::new(seed);
    let mut args = Vec::new();
    for _ in 0..random.below(6) {
        let flag = FLAGS[random.below(FLAGS.len())];
        let dashes = ["-", "--", "", "---"][random.below(8).min(3) % 4];
        match random.below(3) {
            0 => args.push(format!("{dashes}{flag}")),
            1 => args.extend([format!("{dashes}{flag}"), value(&mut random)]),
            _ => args.push(format!("{dashes}{flag}={}", value(&mut random))),
        }
    }
    let env: Vec<_> = (0..random.below(3))
        .map(|_| {
            let flag = FLAGS[random.below(FLAGS.len())];
            let name = format!("ETCD_{}", flag.to_uppercase().replace('-', "_"));
            (name, value(&mut random))
        })
        .collect();
    if let Err(refusal) = Config::parse(args.iter().cloned(), env.iter().cloned()) {
        let text = refusal.to_string();
        assert!(!text.is_empty(), "seed {seed}: {args:?} {env:?} is refused without a word");
    }
}

/// A configuration file.
pub fn seed_file(seed: u64) {
    let mut random = Random::new(seed);
    let mut text = String::new();
    for _ in 0..random.below(8) {
        let flag = FLAGS[random.below(FLAGS.len())];
        let value = value(&mut random);
        match random.below(6) {
            0 => text.push_str(&format!("{flag}: '{value}'\n")),
            1 => text.push_str(&format!("{flag}:\n  - {value}\n")),
            2 => text.push_str(&format!("{flag}:\n  cert-file: {value}\n")),
            3 => text.push_str(&format!("{{\"{flag}\": \"{value}\"}}\n")),
            _ => text.push_str(&format!("{flag}: {value}\n")),
        }
    }
    if random.below(3) == 0 && !text.is_empty() {
        let mut at = random.below(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, ["\t", "[", "&a *a", "!!int ", "\u{feff}", ": :"][random.below(6)]);
    }
    if let Err(refusal) = Config::from_yaml(&text) {
        assert!(!refusal.to_string().is_empty(), "seed {seed}: refused without a word:\n{text}");
    }
}
