//! A container as the OCI runtime specification words it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};

use super::env::{ConfigError, expand, find};
use super::user::User;
use crate::api::quantity::Quantity;
use crate::kubelet::images::ImageConfig;

/// What container engines give a program that is root in its container.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More processes than this in one container are refused: a fork bomb stays in its pod.
const PIDS_MAX: i64 = 8192;
const CPU_PERIOD_US: i64 = 100_000;

/// A directory or file of the node that appears in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the node.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// The container may not write there.
    pub read_only: bool,
}

/// Facts about the node that shape every container.
#[derive(Debug, Clone)]
pub struct Host {
    /// Devices are guarded by no cgroup: `mknod` must not be possible.
    pub cgroup_v2: bool,
    /// Capabilities this process itself has; no container can have more.
    pub capabilities: BTreeSet<String>,
    /// The least OOM score adjustment this process may set.
    pub oom_score_floor: i64,
    /// The node's memory in bytes.
    pub memory: i64,
}

/// All that a container's configuration is made from.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// The pod's spec.
    pub spec: &'a PodSpec,
    /// The container's.
    pub container: &'a Container,
    /// The image's wishes.
    pub image: &'a ImageConfig,
    /// From [`super::env::environment`].
    pub environment: &'a [(String, String)],
    /// From [`super::user::resolve`].
    pub user: &'a User,
    /// Volumes and the files every pod gets.
    pub binds: &'a [Bind],
    /// Shared memory of the pod, on the node.
    pub shm: PathBuf,
    /// `HOSTNAME`.
    pub hostname: &'a str,
    /// Cgroup path.
    pub cgroup: &'a str,
    /// Quality of service class.
    pub qos: Qos,
    /// The node.
    pub host: &'a Host,
}

/// Kubernetes' three classes of pods, by how much they reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container reserves all it may use.
    Guaranteed,
    /// Some container reserves something.
    Burstable,
    /// Nobody reserves anything.
    BestEffort,
}

impl Qos {
    /// The class of a pod.
    pub fn of(spec: &PodSpec) -> Self {
        let mut any = false;
        let mut all = true;
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            for name in ["cpu", "memory"] {
                let limit = amount(container, "limits", name);
                let request = amount(container, "requests", name);
                any |= limit.or(request).is_some_and(|amount| !amount.is_zero());
                all &= limit.is_some_and(|limit| !limit.is_zero())
                    && request.is_none_or(|request| Some(request) == limit);
            }
        }
        match (any, all) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// As the pod's status says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The pod's cgroup below `root`, as kubelets lay it out.
    pub fn pod_cgroup(self, root: &str, uid: &str) -> String {
        match self {
            Self::Guaranteed => format!("{root}/pod{uid}"),
            Self::Burstable => format!("{root}/burstable/pod{uid}"),
            Self::BestEffort => format!("{root}/besteffort/pod{uid}"),
        }
    }
}

/// The OCI configuration, and the capabilities to keep after the system call filter is loaded,
/// where one is asked for.
pub fn build(with: &Ingredients<'_>) -> Result<(Value, Option<Vec<String>>), ConfigError> {
    let security = with.container.security_context.as_ref();
    let mut environment = environment(with);
    let arguments = arguments(with)?;
    let wanted = capabilities(with)?;
    let no_new_privileges =
        security.and_then(|context| context.allow_privilege_escalation) == Some(false);
    let filter = wants_filter(with);
    let mut granted = wanted.clone();
    if filter && !no_new_privileges {
        // Needed to load the filter and to drop to the wanted set afterwards.
        granted.extend(["CAP_SYS_ADMIN".to_owned(), "CAP_SETPCAP".to_owned()]);
    }
    environment.insert(0, format!("HOSTNAME={}", with.hostname));
    let directory = [with.container.working_dir.as_deref(), Some(with.image.working_dir.as_str())]
        .into_iter()
        .flatten()
        .find(|directory| !directory.is_empty())
        .unwrap_or("/");
    let mut process = json!({
        "terminal": false,
        "user": {"uid": with.user.uid, "gid": with.user.gid, "additionalGids": with.user.groups},
        "args": arguments,
        "env": environment,
        "cwd": directory,
        "capabilities": {
            "bounding": granted, "effective": granted, "permitted": granted,
            "inheritable": [], "ambient": [],
        },
        "oomScoreAdj": oom_score(with),
    });
    // Left out when false: libcontainer takes its mere presence as a wish.
    if no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {
            "path": "",
            "readonly": security.and_then(|context| context.read_only_root_filesystem) == Some(true),
        },
        "mounts": mounts(with),
        "linux": {
            // Network, ipc and uts are the shim's, inherited by not being named.
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "cgroupsPath": with.cgroup,
            "resources": resources(with.container),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
        },
    });
    Ok((spec, filter.then(|| wanted.into_iter().collect())))
}

fn environment(with: &Ingredients<'_>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let own = |name: &str| find(with.environment, name).is_some();
    for line in &with.image.env {
        let name = line.split('=').next().unwrap_or(line);
        if !own(name) {
            lines.push(line.clone());
        }
    }
    lines.extend(with.environment.iter().map(|(name, value)| format!("{name}={value}")));
    if !lines.iter().any(|line| line.starts_with("PATH=")) {
        lines.push(format!("PATH={DEFAULT_PATH}"));
    }
    lines
}

/// The pod's command replaces the image's entry point and its arguments; its args only those.
fn arguments(with: &Ingredients<'_>) -> Result<Vec<String>, ConfigError> {
    let list = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
    let (command, args) = match (list(&with.container.command), list(&with.container.args)) {
        (Some(command), args) => (command, args.unwrap_or_default()),
        (None, Some(args)) => (with.image.entrypoint.clone(), args),
        (None, None) => (with.image.entrypoint.clone(), with.image.cmd.clone()),
    };
    let words: Vec<String> = command
        .iter()
        .chain(&args)
        .map(|word| expand(word, |name| find(with.environment, name)))
        .collect();
    if words.is_empty() {
        return Err(ConfigError("no command specified".to_owned()));
    }
    Ok(words)
}

fn capabilities(with: &Ingredients<'_>) -> Result<BTreeSet<String>, ConfigError> {
    let host = with.host;
    let mut set: BTreeSet<String> =
        DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    if host.cgroup_v2 {
        set.remove("CAP_MKNOD");
    }
    let wishes =
        with.container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter()
            .flatten()
            .map(|name| {
                let name = name.to_ascii_uppercase();
                if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
            })
            .collect()
    };
    let add = names(wishes.and_then(|wishes| wishes.add.as_ref()));
    let drop = names(wishes.and_then(|wishes| wishes.drop.as_ref()));
    if add.iter().any(|name| name == "ALL") {
        set = host.capabilities.clone();
    }
    if drop.iter().any(|name| name == "ALL") {
        set.clear();
    }
    for name in add.into_iter().filter(|name| name != "ALL") {
        if !host.capabilities.contains(&name) {
            return Err(ConfigError(format!("capability {name} is unknown or not this node's")));
        }
        set.insert(name);
    }
    for name in &drop {
        set.remove(name);
    }
    set.retain(|name| host.capabilities.contains(name));
    Ok(set)
}

fn wants_filter(with: &Ingredients<'_>) -> bool {
    let own = with.container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let pod = with.spec.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    own.or(pod).is_some_and(|profile| profile.type_ == "RuntimeDefault")
}

fn mounts(with: &Ingredients<'_>) -> Vec<Value> {
    let plain = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        plain("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        plain(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        plain("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        plain("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        plain("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        bind(&with.shm.to_string_lossy(), "/dev/shm", false),
    ];
    // A mount over a mount must come after it.
    let mut binds: Vec<&Bind> = with.binds.iter().collect();
    binds.sort_by(|one, two| one.target.cmp(&two.target));
    for wish in binds {
        mounts.push(bind(&wish.source.to_string_lossy(), &wish.target, wish.read_only));
    }
    mounts
}

fn bind(source: &str, target: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({
        "destination": target, "type": "bind", "source": source,
        "options": ["rbind", "rprivate", access],
    })
}

/// A limit or request of a container.
pub fn amount(container: &Container, kind: &str, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let map = match kind {
        "limits" => resources.limits.as_ref()?,
        _ => resources.requests.as_ref()?,
    };
    Quantity::parse(&map.get(name)?.0)
}

fn resources(container: &Container) -> Value {
    let request =
        amount(container, "requests", "cpu").or_else(|| amount(container, "limits", "cpu"));
    let shares =
        request.map_or(2, |cpu| (cpu.milli().saturating_mul(1024) / 1000).clamp(2, 262_144));
    let mut cpu = json!({"shares": shares, "period": CPU_PERIOD_US});
    if let Some(limit) = amount(container, "limits", "cpu") {
        // The kernel refuses less than a millisecond.
        cpu["quota"] = json!((limit.milli().saturating_mul(CPU_PERIOD_US) / 1000).max(1000));
    }
    let mut resources = json!({
        "cpu": cpu,
        "pids": {"limit": PIDS_MAX},
        "devices": devices(),
    });
    if let Some(limit) = amount(container, "limits", "memory") {
        resources["memory"] = json!({"limit": limit.units()});
    }
    resources
}

/// No device but the harmless ones every container has.
fn devices() -> Vec<Value> {
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    // null, zero, full, tty, random, urandom, ptmx, and all of devpts.
    let allowed: [(i64, Option<i64>); 8] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (5, Some(0)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(2)),
        (136, None),
    ];
    for (major, minor) in allowed {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rules.push(rule);
    }
    rules
}

/// Kubernetes' scores: who reserves more is killed later.
fn oom_score(with: &Ingredients<'_>) -> i64 {
    let wanted = match with.qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = amount(with.container, "requests", "memory").map_or(0, Quantity::units);
            (1000 - request.saturating_mul(1000) / with.host.memory.max(1)).clamp(3, 999)
        }
    };
    wanted.max(with.host.oom_score_floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            cgroup_v2: false,
            capabilities: DEFAULT_CAPABILITIES
                .iter()
                .chain(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN"])
                .map(|name| (*name).to_owned())
                .collect(),
            oom_score_floor: -1000,
            memory: 1 << 30,
        }
    }

    fn run(container: Value) -> (Value, Option<Vec<String>>) {
        let spec: PodSpec =
            serde_json::from_value(json!({"containers": [container]})).expect("a spec");
        let image = ImageConfig {
            env: vec!["PATH=/bin".into(), "A=image".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            ..ImageConfig::default()
        };
        build(&Ingredients {
            spec: &spec,
            container: &spec.containers[0],
            image: &image,
            environment: &[("A".into(), "pod".into())],
            user: &User { uid: 1, gid: 2, groups: vec![3] },
            binds: &[],
            shm: "/pod/shm".into(),
            hostname: "h",
            cgroup: "/kubepods/podu/c",
            qos: Qos::of(&spec),
            host: &host(),
        })
        .expect("builds")
    }

    #[test]
    fn command_and_args_replace_what_the_image_says() {
        let args = |container| run(container).0["process"]["args"].clone();
        assert_eq!(args(json!({"name": "c"})), json!(["/entry", "default"]));
        assert_eq!(
            args(json!({"name": "c", "args": ["x", "$(A)"]})),
            json!(["/entry", "x", "pod"])
        );
        assert_eq!(args(json!({"name": "c", "command": ["/c"]})), json!(["/c"]));
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let (spec, _) = run(json!({"name": "c"}));
        assert_eq!(spec["process"]["env"], json!(["HOSTNAME=h", "PATH=/bin", "A=pod"]));
    }

    #[test]
    fn limits_become_cgroup_settings() {
        let (spec, _) = run(json!({
            "name": "c", "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
        }));
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["cpu"], json!({"shares": 256, "period": 100_000, "quota": 25_000}));
        assert_eq!(resources["memory"], json!({"limit": 64 << 20}));
        assert_eq!(spec["process"]["oomScoreAdj"], json!(-997), "limits alone make it guaranteed");
    }

    #[test]
    fn privileges_are_dropped_added_and_locked() {
        let (spec, filter) = run(json!({
            "name": "c",
            "securityContext": {
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }));
        assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_NET_BIND_SERVICE"]));
        assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
        assert_eq!(spec["root"]["readonly"], json!(true));
        assert_eq!(filter, Some(vec!["CAP_NET_BIND_SERVICE".to_owned()]));
        let (plain, none) = run(json!({"name": "c"}));
        assert!(plain["process"].get("noNewPrivileges").is_none());
        assert_eq!(none, None);
    }

    #[test]
    fn loading_the_filter_needs_more_than_the_program_gets() {
        let (spec, filter) = run(json!({
            "name": "c",
            "securityContext": {
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            },
        }));
        let granted = &spec["process"]["capabilities"]["bounding"];
        assert_eq!(granted, &json!(["CAP_SETPCAP", "CAP_SYS_ADMIN"]));
        assert_eq!(filter, Some(Vec::new()));
    }

    #[test]
    fn classes_follow_what_is_reserved() {
        let of = |resources: Value| {
            let spec = json!({"containers": [{"name": "c", "resources": resources}]});
            Qos::of(&serde_json::from_value(spec).expect("a spec"))
        };
        assert_eq!(of(json!({})), Qos::BestEffort);
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), Qos::Burstable);
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(of(json!({"limits": all, "requests": all})), Qos::Guaranteed);
        assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "0"}})), Qos::Burstable);
        assert_eq!(Qos::Burstable.pod_cgroup("/kubepods", "u"), "/kubepods/burstable/podu");
    }
}
