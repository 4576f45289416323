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
    assert_eq!(config.pace, CompactionPace { batch: 1000, pause: Duration::from_millis(10) });
    assert_eq!(config.auth.token, TokenKind::Simple);
    assert_eq!(config.auth.token_ttl, Duration::from_secs(300));
    assert_eq!(config.auth.bcrypt_cost, 10);
    assert_eq!(config.slow.request, Duration::from_millis(300));
    assert_eq!(config.listen.keepalive.interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.http.cors, Allowed::Any);
    assert!(config.http.gateway && config.disk.fsync);
    assert!(config.gates.enabled(Gate::FastLeaseKeepAlive));
    assert!(!config.gates.enabled(Gate::LeaseCheckpoint));
}

/// The table's own defaults have the shapes the table asks for.
#[test]
fn every_default_can_be_given() {
    for flag in table::groups().flat_map(|(_, flags)| flags) {
        let mut given = flags::Given::default();
        let put = given.put(flag, flag.default.to_owned(), flags::Way::Flag);
        assert!(put.is_ok(), "{}", flag.name);
        assert!(given.warnings.is_empty(), "{} warns at its default", flag.name);
        let twins = table::groups().flat_map(|(_, flags)| flags);
        assert_eq!(twins.filter(|other| other.name == flag.name).count(), 1, "{}", flag.name);
    }
}

fn warnings(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    match parse(args, env) {
        Ok(Request::Run(_, warnings)) => warnings,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
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
    let (code, reason) = refusal(&[], &[("ETCD_SNAPSHOT_COUNT", "many")]);
    assert_eq!(
        (code, reason.as_str()),
        (1, "invalid value \"many\" for ETCD_SNAPSHOT_COUNT: parse error")
    );
    let said = warnings(&["--name=x"], &[("ETCD_NONSENSE", "secret"), ("ETCD_VERSION", "3")]);
    assert_eq!(
        said,
        [
            "unrecognized environment variable ETCD_NONSENSE",
            "unrecognized environment variable ETCD_VERSION"
        ]
    );
}

#[test]
fn numbers_and_switches_are_gos() {
    for (text, bytes) in [("0x100000", 1 << 20), ("0b10", 2), ("0o17", 15), ("017", 15), ("+5", 5)]
    {
        let arg = format!("--max-request-bytes={text}");
        assert_eq!(run(&[&arg], &[]).requests.max_bytes, bytes, "{text}");
    }
    for text in ["TRUE", "1", "t"] {
        assert!(!run(&[&format!("--unsafe-no-fsync={text}")], &[]).disk.fsync, "{text}");
    }
    for text in ["1_000", "", " 1", "0x", "1e3", "18446744073709551616"] {
        let (code, _) = refusal(&[&format!("--max-request-bytes={text}")], &[]);
        assert_eq!(code, 2, "{text}");
    }
}

#[test]
fn what_changes_nothing_says_why() {
    for (arg, part) in [
        ("--max-wals=7", "--max-wals changes nothing: segments of the log"),
        ("--max-snapshots=7", "--max-snapshots is deprecated in 3.6"),
        ("--max-snapshots=7", "--max-snapshots changes nothing: a checkpoint"),
        ("--v2-deprecation=gone", "The default value is enforced"),
        ("--peer-cert-file=x", "--peer-cert-file changes nothing: there is no other member"),
        ("--pre-vote=false", "--pre-vote changes nothing"),
        ("--force-new-cluster", "--force-new-cluster changes nothing: this member is alone"),
        ("--v=3", "--v changes nothing, nor does it in etcd"),
        ("--listen-peer-urls=http://127.0.0.1:1", "nothing listens there"),
        ("--feature-gates=InitialCorruptCheck=true", "feature gate InitialCorruptCheck changes"),
        ("--feature-gates=LeaseCheckpoint=true", "without LeaseCheckpointPersist"),
        ("--experimental-initial-corrupt-check=true", "is now --feature-gates=InitialCorruptCheck"),
        ("--bcrypt-cost=40", "10 is used"),
        ("--metrics=all", "basic is used"),
        ("--log-outputs=systemd/journal", "standard error"),
        ("--max-request-bytes=20000000", "above 10 MiB"),
        ("--quota-backend-bytes=9000000000", "above 8 GiB"),
    ] {
        let said = warnings(&["--name=x", arg], &[]);
        assert!(said.iter().any(|line| line.contains(part)), "{arg}: {said:?}");
    }
    assert!(warnings(&["--name=x", "--pre-vote=true", "--max-wals=5"], &[]).is_empty());
}

#[test]
fn feature_gates() {
    let on = |list: &str, gate| run(&[&format!("--feature-gates={list}")], &[]).gates.enabled(gate);
    assert!(on("LeaseCheckpoint=true,LeaseCheckpointPersist=true", Gate::LeaseCheckpointPersist));
    assert!(on("AllAlpha=true", Gate::CompactHashCheck));
    assert!(!on("CompactHashCheck=false,AllAlpha=true", Gate::CompactHashCheck));
    assert!(!on("AllBeta=false", Gate::FastLeaseKeepAlive));
    let both = run(&["--feature-gates=AllBeta=0", "--feature-gates=PriorityRequest=1"], &[]).gates;
    assert!(both.enabled(Gate::PriorityRequest) && !both.enabled(Gate::FastLeaseKeepAlive));
    assert!(
        run(&["--experimental-initial-corrupt-check"], &[])
            .gates
            .enabled(Gate::InitialCorruptCheck)
    );
}

#[test]
fn tokens() {
    let of = |text: &str| run(&[&format!("--auth-token={text}")], &[]).auth.token;
    assert_eq!(of("simple"), TokenKind::Simple);
    assert_eq!(of(""), TokenKind::None);
    let TokenKind::Jwt(options) = of("jwt,sign-method=RS256,pub-key=p.pem,ttl=5m") else {
        panic!("jwt is a kind of token")
    };
    assert_eq!(options["sign-method"], "RS256");
    assert_eq!(options["ttl"], "5m");
}

#[test]
fn certificates_and_ciphers() {
    let tls = |args: &[&str]| {
        let mut all = vec!["--cert-file=c", "--key-file=k"];
        all.extend(args);
        run(&all, &[]).listen.tls.expect("it was given")
    };
    assert_eq!(tls(&[]), TlsConfig::new("c".into(), "k".into()));
    let suites =
        tls(&["--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256"]);
    assert_eq!(suites.cipher_suites, [0xc02f, 0x1301]);
    assert_eq!(tls(&["--tls-max-version=TLS1.2"]).max_version, TlsVersion::V12);
    let args = [
        "--auto-tls",
        "--listen-client-urls=https://10.0.0.1:1,https://127.0.0.1:2",
        "--advertise-client-urls=https://10.0.0.1:1",
    ];
    let made = run(&args, &[]).listen.tls.expect("it is made");
    let hosts = ["10.0.0.1", "127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    assert_eq!(made.identity, Identity::SelfSigned { years: 1, hosts });
}

#[test]
fn logs() {
    let log = |args: &[&str]| run(args, &[]).log;
    assert_eq!(log(&[]).outputs, [LogOutput::Stderr]);
    let both = log(&["--log-outputs=stdout,a.log,stdout"]);
    assert_eq!(both.outputs, [LogOutput::Stdout, LogOutput::File("a.log".into())]);
    assert_eq!(
        log(&["--log-outputs=stderr,/dev/null"]).outputs,
        [LogOutput::File("/dev/null".into())]
    );
    let rotated = log(&[
        "--log-outputs=a.log",
        "--enable-log-rotation",
        "--log-rotation-config-json={\"maxsize\":1,\"maxbackups\":3}",
    ]);
    assert_eq!(rotated.rotation, Some(Rotation { megabytes: 1, files: 3, ..Rotation::default() }));
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
fn places_to_listen() {
    let config = run(
        &[
            "--listen-client-urls=unix:///run/s.sock,unixs://rel:0,http://[::1]:5",
            "--advertise-client-urls=unix:///run/s.sock",
            "--cert-file=c",
            "--key-file=k",
        ],
        &[],
    );
    let places: Vec<_> = config.listen.client_urls.iter().map(Url::place).collect();
    assert_eq!(
        places,
        [
            Ok(Place::Tcp("[::1]:5".parse().expect("an address"))),
            Ok(Place::Unix("/run/s.sock".into())),
            Ok(Place::Unix("rel:0".into())),
        ]
    );
    let tls: Vec<bool> = config.listen.client_urls.iter().map(Url::tls).collect();
    assert_eq!(tls, [false, false, true]);
    let origins = run(&["--cors=https://a.example:1,http://b.example"], &[]).http.cors;
    assert!(origins.allows("http://b.example") && !origins.allows("http://c.example"));
    let hosts = run(&["--host-whitelist=a,b"], &[]).http.hosts;
    assert!(hosts.allows("a") && !hosts.allows("c"));
}

/// Arguments, the exit code, and a part of the one line that is said.
const BAD: &[(&[&str], i32, &str)] = &[
    (&["--nam=x"], 2, "flag provided but not defined: -nam (did you mean -name?)"),
    (&["--name"], 2, "flag needs an argument: -name"),
    (&["stray"], 1, "\"stray\" is not a valid flag"),
    (&["gateway", "start"], 1, "gateway: etcd's proxies are not part of this program"),
    (&["--name=x", "--", "stray"], 1, "\"stray\" is not a valid flag"),
    (&["---name=x"], 2, "bad flag syntax: ---name=x"),
    (&["--=x"], 2, "bad flag syntax"),
    (&["--snapshot-count=-1"], 2, "invalid value \"-1\" for flag -snapshot-count: parse error"),
    (&["--quota-backend-bytes=lots"], 2, "invalid value \"lots\""),
    (&["--client-cert-auth=maybe"], 2, "invalid boolean value \"maybe\" for -client-cert-auth"),
    (&["--warning-apply-duration=5"], 2, "invalid value \"5\" for flag -warning-apply-duration"),
    (&["--bcrypt-cost=4294967296"], 2, "value out of range"),
    (&["--listen-client-urls=http://127.0.0.1:1"], 1, "--advertise-client-urls is required"),
    (&["--advertise-client-urls=http://:1"], 1, "must be \"host:port\""),
    (&["--listen-peer-urls=http://host:1"], 1, "expected IP in URL for binding (http://host:1)"),
    (&["--listen-peer-urls=http://127.0.0.1:1/x"], 2, "URL must not contain a path"),
    (&["--listen-peer-urls=ftp://127.0.0.1:1"], 2, "URL scheme must be http, https, unix, or"),
    (&["--listen-peer-urls=http://127.0.0.1"], 2, "does not have the form \"host:port\""),
    (&["--listen-client-urls=unix://"], 2, "does not name a socket"),
    (&["--cors=foo"], 2, "invalid value \"foo\" for flag -cors: \"foo\" is not like"),
    (&["--heartbeat-interval=0"], 1, "--heartbeat-interval must be >0 (set to 0ms)"),
    (&["--election-timeout=0"], 1, "--election-timeout must be >0 (set to 0ms)"),
    (&["--heartbeat-interval=300"], 1, "--election-timeout[1000ms] should be at least as 5 times"),
    (&["--election-timeout=60000"], 1, "is too long"),
    (&["--initial-cluster=b=http://localhost:2380"], 1, "couldn't find local name \"default\""),
    (&["--initial-cluster=default=http://localhost:9"], 1, "--initial-cluster has default=http"),
    (
        &["--initial-cluster=default=http://localhost:2380,b=http://localhost:9"],
        1,
        "more than one member",
    ),
    (&["--initial-cluster-state=odd"], 2, "invalid value \"odd\" for flag -initial-cluster-state"),
    (&["--discovery-srv=x"], 1, "--discovery-srv cannot be used: discovery finds other members"),
    (&["--cert-file=c"], 1, "must both be present"),
    (&["--client-crl-file=r", "--cert-file=c", "--key-file=k"], 1, "need --trusted-ca-file"),
    (&["--client-cert-auth", "--cert-file=c", "--key-file=k"], 1, "needs --trusted-ca-file"),
    (
        &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"],
        1,
        "must be provided for https://127.0.0.1:1",
    ),
    (&["--auto-tls", "--self-signed-cert-validity=0"], 1, "at least a year"),
    (&["--cipher-suites=foo"], 1, "unexpected TLS cipher suite \"foo\""),
    (&["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"], 1, "is weak and not offered"),
    (
        &["--cipher-suites=TLS_AES_128_GCM_SHA256", "--tls-min-version=TLS1.3"],
        1,
        "cannot be configured when only TLS1.3",
    ),
    (&["--tls-min-version=TLS1.1"], 1, "unexpected TLS version \"TLS1.1\" (must be one of"),
    (
        &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
        1,
        "min version (TLS1.3) is greater than max version (TLS1.2)",
    ),
    (&["--auto-compaction-mode=revision", "--auto-compaction-retention=-5"], 1, "error parsing"),
    (&["--auto-compaction-retention=-1h"], 1, "error parsing"),
    (&["--auto-compaction-mode=x"], 1, "unknown auto-compaction-mode \"x\""),
    (&["--auto-compaction-mode="], 1, "undefined auto-compaction-mode"),
    (&["--compaction-batch-limit=-1"], 1, "must not be negative"),
    (&["--feature-gates=Foo=true"], 2, "unrecognized feature gate: Foo"),
    (&["--feature-gates=PriorityRequest"], 2, "missing bool value for PriorityRequest"),
    (&["--feature-gates=PriorityRequest=x"], 2, "invalid value of PriorityRequest=x"),
    (&["--feature-gates=LeaseCheckpointPersist=true"], 1, "requires enabling feature gate"),
    (&["--auth-token=zz"], 1, "invalid auth options"),
    (&["--auth-token=jwt,sign-method"], 1, "options are name=value"),
    (&["--auth-token=jwt,ttl=1,ttl=2"], 1, "ttl is given twice"),
    (&["--log-level=loud"], 1, "unrecognized level: \"loud\""),
    (&["--log-format=x"], 1, "unknown log format: x, supported values json, console"),
    (&["--log-outputs=stdout,default"], 1, "multi logoutput for \"default\""),
    (&["--logger=x"], 1, "unknown logger option \"x\""),
    (&["--logger=capnslog"], 1, "removed in v3.5"),
    (&["--enable-log-rotation"], 1, "requires a single file path"),
    (
        &["--enable-log-rotation", "--log-outputs=f", "--log-rotation-config-json={"],
        1,
        "improperly formatted log rotation config",
    ),
    (&["--storage=tape"], 2, "it must be one of disk, memory"),
    (&["--config-file=/no/such/file"], 1, "open /no/such/file: "),
];

#[test]
fn bad_options_have_one_line() {
    for &(args, code, part) in BAD {
        let (got, reason) = refusal(args, &[]);
        assert_eq!((got, reason.lines().count()), (code, 1), "{args:?}: {reason}");
        assert!(reason.contains(part), "{args:?}: {reason}");
    }
}

#[test]
fn a_file_stands_alone() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), "name: from-file\n").expect("it can be written");
    let path = file.path().to_str().expect("a plain path");
    let flag = format!("--config-file={path}");
    let config = run(&[&flag, "--name=x", "--snapshot-count=5"], &[("ETCD_NAME", "y")]);
    assert_eq!(config.member.name, "from-file");
    assert_eq!(config.disk.snapshot_count, 10_000);
    let said = warnings(&[&flag, "--name=x"], &[]);
    assert!(said.iter().any(|line| line.contains("flags and variables are ignored")), "{said:?}");
    let config = run(&[], &[("ETCD_CONFIG_FILE", path), ("ETCD_NAME", "y")]);
    assert_eq!(config.member.name, "from-file");
    assert!(warnings(&[], &[("ETCD_CONFIG_FILE", path)]).is_empty());
    // What cannot be read as flags is told even then.
    assert_eq!(refusal(&[&flag, "--snapshot-count=x"], &[]).0, 2);
}

#[test]
fn a_file_has_etcds_shape() {
    let (config, said) = Config::from_yaml(
        "
name: m1
Data-Dir: /tmp/x
listen-client-urls: https://127.0.0.1:1,https://127.0.0.1:2
advertise-client-urls: https://127.0.0.1:1
listen-metrics-urls: http://127.0.0.1:3
watch-progress-notify-interval: 5000000000
election-timeout: 5000
heartbeat-interval: 500
quota-backend-bytes: -1
auto-compaction-retention: '1'
log-outputs: [stdout, a.log]
cipher-suites: [TLS_AES_128_GCM_SHA256]
feature-gates: LeaseCheckpoint=true,LeaseCheckpointPersist=true
pre-vote: true
cors: '*'
host-whitelist: a,b
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: ca
  allowed-hostname: [one, two]
peer-transport-security:
socket-options: {reuse-port: true}
",
    )
    .expect("a file like etcd's");
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(config.member.initial_cluster["m1"].len(), 1);
    assert_eq!(config.disk.data_dir, PathBuf::from("/tmp/x"));
    assert_eq!(config.requests.watch_progress_interval, Duration::from_secs(5));
    assert_eq!(config.raft.election_timeout, Duration::from_secs(5));
    assert_eq!(config.log.outputs, [LogOutput::Stdout, LogOutput::File("a.log".into())]);
    assert!(config.listen.reuse_port && config.gates.enabled(Gate::LeaseCheckpoint));
    let tls = config.listen.tls.expect("it is given");
    assert_eq!(tls.client_names, ["one", "two"]);
    assert_eq!(tls.client_ca_file, Some("ca".into()));
}

#[test]
fn bad_files_have_one_line() {
    for (text, part) in [
        ("watch-progress-notify-interval: 5s", "must be a whole number of nanoseconds"),
        ("snapshot-count: many", "must be a whole number"),
        ("pre-vote: 'yes'", "must be true or false"),
        ("log-outputs: stderr", "must be a list of strings"),
        ("listen-client-urls: [a]", "must be a string"),
        ("listen-client-urls: http://x", "invalid value \"http://x\" for listen-client-urls: URL"),
        ("snapshot-count: -1", "invalid value \"-1\" for snapshot-count"),
        ("client-transport-security: 5", "invalid client-transport-security"),
        ("client-transport-security: {cert-file: c}", "must both be present"),
        ("- a", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("initial-cluster-state: odd", "must be one of new, existing"),
        ("discovery-config: {discovery-endpoints: [x]}", "discovery finds other members"),
    ] {
        let Err(error) = Config::from_yaml(text) else { panic!("{text} was taken") };
        let reason = error.to_string();
        assert_eq!(reason.lines().count(), 1, "{text}: {reason}");
        assert!(reason.contains(part), "{text}: {reason}");
    }
    for (text, part) in [
        ("nam: x", "unknown key \"nam\""),
        ("cert-file: x", "belongs under \"client-transport-security\""),
        ("peer-transport-security: {odd: 1}", "unknown key \"peer-transport-security.odd\""),
        ("max-wals: 9", "max-wals changes nothing"),
    ] {
        let (_, said) = Config::from_yaml(text).expect("only a warning");
        assert!(said.iter().any(|line| line.contains(part)), "{text}: {said:?}");
    }
    assert!(Config::from_yaml("").is_ok());
    assert!(Config::from_yaml(&"#".repeat(limits::CONFIG_FILE_BYTES_MAX + 1)).is_err());
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
