//! Feature gates: switches of etcd's for what it still tries out, by name and stage.
//!
//! All names of etcd 3.7 are known, so that a start line written for etcd is read here too. Some
//! gates choose between two ways of etcd's code that we have only one of; turning those to
//! another value says so in one line.

use std::collections::BTreeMap;

use super::flags::go_bool;

/// A gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are etcd's; what each does here is in the table")]
pub enum Gate {
    CompactHashCheck,
    FastLeaseKeepAlive,
    InitialCorruptCheck,
    LeaseCheckpoint,
    LeaseCheckpointPersist,
    PriorityRequest,
    SetMemberLocalAddr,
    StopGrpcServiceOnDefrag,
    TxnModeWriteWithSharedBuffer,
}

/// How far a gate has come in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless told otherwise.
    Beta,
}

impl Stage {
    /// As etcd's metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

struct Line {
    gate: Gate,
    name: &'static str,
    stage: Stage,
    /// Why another value than the default changes nothing.
    idle: Option<&'static str>,
}

const ALONE: Option<&str> = Some("there is no other member");

const GATES: &[Line] = &[
    line(Gate::CompactHashCheck, "CompactHashCheck", Stage::Alpha, ALONE),
    line(
        Gate::FastLeaseKeepAlive,
        "FastLeaseKeepAlive",
        Stage::Beta,
        Some("keep-alives never wait for anything here"),
    ),
    line(
        Gate::InitialCorruptCheck,
        "InitialCorruptCheck",
        Stage::Alpha,
        Some("there is no other member to compare with; every record read at start is checksummed"),
    ),
    line(Gate::LeaseCheckpoint, "LeaseCheckpoint", Stage::Alpha, None),
    line(Gate::LeaseCheckpointPersist, "LeaseCheckpointPersist", Stage::Alpha, None),
    line(
        Gate::PriorityRequest,
        "PriorityRequest",
        Stage::Alpha,
        Some("requests share one queue, which none waits long in"),
    ),
    line(Gate::SetMemberLocalAddr, "SetMemberLocalAddr", Stage::Alpha, ALONE),
    line(
        Gate::StopGrpcServiceOnDefrag,
        "StopGRPCServiceOnDefrag",
        Stage::Alpha,
        Some("defragmentation serves meanwhile, so nobody need be sent away"),
    ),
    line(
        Gate::TxnModeWriteWithSharedBuffer,
        "TxnModeWriteWithSharedBuffer",
        Stage::Beta,
        Some("transactions read a view that costs nothing to take"),
    ),
];

const fn line(gate: Gate, name: &'static str, stage: Stage, idle: Option<&'static str>) -> Line {
    Line { gate, name, stage, idle }
}

/// The value of every gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates {
    gates: BTreeMap<Gate, bool>,
    /// Whether all of a stage were asked for, under the names of [`ALL`].
    all: [bool; ALL.len()],
}

/// The names that stand for all gates of a stage.
const ALL: [(&str, Stage); 2] = [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

impl Default for FeatureGates {
    fn default() -> Self {
        let gates = GATES.iter().map(|line| (line.gate, line.stage == Stage::Beta)).collect();
        Self { gates, all: [false; ALL.len()] }
    }
}

impl FeatureGates {
    /// Whether a gate is on.
    pub fn enabled(&self, gate: Gate) -> bool {
        self.gates.get(&gate).copied().unwrap_or(false)
    }

    /// Every gate with its etcd name, stage and value, sorted by name; before them the two names
    /// that stand for all of a stage.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> {
        let all = ALL.into_iter().zip(self.all).map(|((name, stage), on)| (name, stage, on));
        all.chain(GATES.iter().map(|line| (line.name, line.stage, self.enabled(line.gate))))
    }

    /// Reads `name=bool,name=bool`; the error is etcd's.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let mut asked = BTreeMap::new();
        for pair in list.split(',').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {}", pair.trim()));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = go_bool(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: parsing {value:?}: invalid syntax")
            })?;
            asked.insert(name, on);
        }
        let mut gates = Self::default();
        // A gate by its own name outdoes the two that stand for many, in whatever order they came.
        for (nth, (all, stage)) in ALL.into_iter().enumerate() {
            let Some(on) = asked.remove(all) else { continue };
            gates.all[nth] = on;
            for line in GATES.iter().filter(|line| line.stage == stage) {
                gates.gates.insert(line.gate, on);
            }
        }
        for (name, on) in asked {
            let line = GATES.iter().find(|line| line.name == name);
            let line = line.ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            gates.gates.insert(line.gate, on);
        }
        Ok(gates)
    }

    /// What to tell about values that change nothing or fit badly; `Err` for what etcd refuses.
    pub(super) fn check(&self, warnings: &mut Vec<String>) -> Result<(), String> {
        let persist = self.enabled(Gate::LeaseCheckpointPersist);
        match (self.enabled(Gate::LeaseCheckpoint), persist) {
            (false, true) => {
                return Err("enabling feature gate LeaseCheckpointPersist requires enabling \
                            feature gate LeaseCheckpoint"
                    .to_owned());
            }
            (true, false) => warnings.push(
                "feature gate LeaseCheckpoint is on without LeaseCheckpointPersist: turn both on"
                    .to_owned(),
            ),
            _ => {}
        }
        for line in GATES {
            let default = line.stage == Stage::Beta;
            if let (Some(reason), true) = (line.idle, self.enabled(line.gate) != default) {
                warnings.push(format!("feature gate {} changes nothing: {reason}", line.name));
            }
        }
        Ok(())
    }
}
