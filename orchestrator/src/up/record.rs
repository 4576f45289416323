//! What `up` leaves for `env` and `down`: one small file in the data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::Ranges;
use serde::{Deserialize, Serialize};

const FILE: &str = "cluster.json";

/// A running or once running cluster, as later commands need to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub store: StoreAccess,
    /// Absent where only a single part has run.
    pub kubeconfig: Option<KubeconfigEntry>,
    /// Set once a node has run here: then there may be pods, interfaces and tables to take down.
    pub node: Option<NodeTrace>,
}

/// How clients reach the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAccess {
    pub endpoints: Vec<String>,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Where the cluster stands in which kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigEntry {
    pub path: PathBuf,
    pub context: String,
}

impl NodeTrace {
    /// The trace of a node with these ranges.
    pub fn of(ranges: Ranges) -> Self {
        let Ranges { cluster, service } = ranges;
        Self { cluster_cidr: cluster.to_string(), service_cidr: service.to_string() }
    }
}

/// The ranges a node set up on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTrace {
    pub cluster_cidr: String,
    pub service_cidr: String,
}

impl Record {
    /// Reads the record of a data directory; `None` before the first start.
    pub fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(data_dir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
    }

    /// Replaces the record.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::from)?;
        text.push(b'\n');
        crate::pki::write_whole(&data_dir.join(FILE), &text, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Record::read(dir.path()).expect("readable"), None);
        let record = Record {
            store: StoreAccess {
                endpoints: vec!["https://127.0.0.1:2379".into()],
                cacert: Some("/a/ca.crt".into()),
                ..StoreAccess::default()
            },
            kubeconfig: Some(KubeconfigEntry { path: "/k".into(), context: "orchestrator".into() }),
            node: Some(NodeTrace {
                cluster_cidr: "10.244.0.0/16".into(),
                service_cidr: "10.96.0.0/12".into(),
            }),
        };
        record.write(dir.path()).expect("written");
        assert_eq!(Record::read(dir.path()).expect("readable"), Some(record));
    }
}
