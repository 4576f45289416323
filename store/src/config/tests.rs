//! One table per rule: what is typed, and what comes of it.

use super::*;

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Request, ConfigError> {
    Config::parse(
        args.iter().map(|&arg| arg.to_owned()),
        env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())),
    )
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Config {
    match parse(args, env) {
        Ok(Request::Run(config, _)) => *config,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

/// The exit code and the reason.
fn refusal(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    match parse(args, env) {
        Err(ConfigError::Usage(reason)) => (2, reason),
        Err(ConfigError::Invalid(reason)) => (1, reason),
        Ok(request) => panic!("{args:?} {env:?} was taken: {request:?}"),
    }
}

#[test]
fn go_syntax_is_taken() {
    for args in [
        &["--name=a", "--data-dir", "d"][..],
        &["-name", "a", "-data-dir=d"],
        &["-name=a", "--data-dir=d", "--client-cert-auth=false", "--pre-vote"],
    ] {
        let config = run(args, &[]);
        assert_eq!(config.member.name, "a");
        assert_eq!(config.disk.data_dir, PathBuf::from("d"));
    }
    assert!(matches!(parse(&["-h"], &[]), Ok(Request::Help)));
    assert!(matches!(parse(&["--version"], &[]), Ok(Request::Version)));
}

#[test]
fn defaults_are_etcds() {
    let config = run(&["--name", "m1"], &[]);
    assert_eq!(config.disk.data_dir, PathBuf::from("m1.etcd"));
    assert_eq!(config.disk.quota_bytes, Some(2 << 30));
    assert_eq!(config.requests.max_bytes, 1_572_864);
    assert_eq!(config.listen.client_urls[0].as_str(), "http://localhost:2379");
    assert_eq!(config.member.initial_cluster["m1"][0].as_str(), "http://localhost:2380");
    assert_eq!(config.compaction, AutoCompaction::Off);
}

#[test]
fn environment_counts_and_conflicts() {
    let config = run(&[], &[("ETCD_NAME", "x"), ("ETCD_QUOTA_BACKEND_BYTES", "-1"), ("PATH", "p")]);
    assert_eq!(config.member.name, "x");
    assert_eq!(config.disk.quota_bytes, None);
    assert_eq!(run(&["--name=x"], &[("ETCD_NAME", "")]).member.name, "x");
    let (code, reason) = refusal(&["--name=x"], &[("ETCD_NAME", "y")]);
    assert_eq!(code, 1);
    assert!(reason.contains("ETCD_NAME is shadowed"), "{reason}");
    let Ok(Request::Run(_, warnings)) = parse(&["--name=x"], &[("ETCD_NONSENSE", "1")]) else {
        panic!("an unknown variable only warns")
    };
    assert_eq!(warnings, ["unrecognized environment variable ETCD_NONSENSE"]);
}

#[test]
fn compaction_modes() {
    let of = |mode: &str, keep: &str| {
        let (mode, keep) = (
            format!("--auto-compaction-mode={mode}"),
            format!("--auto-compaction-retention={keep}"),
        );
        run(&[&mode, &keep], &[]).compaction
    };
    assert_eq!(of("revision", "1000"), AutoCompaction::Revision(1000));
    assert_eq!(of("periodic", "1"), AutoCompaction::Periodic(Duration::from_secs(3600)));
    assert_eq!(of("periodic", "1m30s"), AutoCompaction::Periodic(Duration::from_secs(90)));
    assert_eq!(of("periodic", "0"), AutoCompaction::Off);
}

#[test]
fn bad_options_have_one_line() {
    for (args, code, part) in [
        (&["--nam=x"][..], 2, "flag provided but not defined: -nam (did you mean -name?)"),
        (&["--name"], 2, "flag needs an argument: -name"),
        (&["stray"], 1, "\"stray\" is not a valid flag"),
        (&["--snapshot-count=-1"], 2, "invalid value \"-1\" for flag -snapshot-count"),
        (&["--quota-backend-bytes=lots"], 2, "invalid value \"lots\""),
        (&["--listen-client-urls=http://127.0.0.1:1"], 1, "--advertise-client-urls is required"),
        (
            &["--listen-peer-urls=http://host:1"],
            1,
            "expected IP in URL for binding (http://host:1)",
        ),
        (&["--listen-peer-urls=http://127.0.0.1:1/x"], 1, "URL must not contain a path"),
        (&["--listen-peer-urls=ftp://127.0.0.1:1"], 1, "URL scheme must be http or https"),
        (&["--listen-peer-urls=http://127.0.0.1"], 1, "does not have the form \"host:port\""),
        (
            &["--heartbeat-interval=300"],
            1,
            "--election-timeout[1000ms] should be at least as 5 times",
        ),
        (&["--election-timeout=60000"], 1, "is too long"),
        (&["--initial-cluster=b=http://localhost:2380"], 1, "couldn't find local name \"default\""),
        (
            &["--initial-cluster=default=http://localhost:9"],
            1,
            "--initial-cluster has default=http",
        ),
        (&["--initial-cluster-state=odd"], 1, "unexpected clusterState \"odd\""),
        (&["--cert-file=c"], 1, "must both be present"),
        (&["--client-cert-auth"], 1, "need --cert-file"),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=-5"],
            1,
            "error parsing",
        ),
        (&["--auto-compaction-mode=x"], 1, "unknown auto-compaction-mode \"x\""),
        (&["--peer-cert-file=x"], 1, "--peer-cert-file=x: this option of etcd's is not built yet"),
        (&["--pre-vote=false"], 1, "not built yet"),
        (&["--log-level=loud"], 1, "unrecognized level"),
    ] {
        let (got, reason) = refusal(args, &[]);
        assert_eq!((got, reason.lines().count()), (code, 1), "{args:?}: {reason}");
        assert!(reason.contains(part), "{args:?}: {reason}");
    }
}

#[test]
fn go_durations() {
    for (text, seconds) in
        [("5s", 5.0), ("1h30m", 5400.0), ("100ms", 0.1), ("1.5s", 1.5), ("0", 0.0)]
    {
        assert_eq!(duration::parse(text), Some(Duration::from_secs_f64(seconds)), "{text}");
    }
    for text in ["", "5", "-1s", "s", "1x", "1.2.3s"] {
        assert_eq!(duration::parse(text), None, "{text}");
    }
}
