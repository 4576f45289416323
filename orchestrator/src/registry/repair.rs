//! Checking the keys that are made from others: the copies of pods by node and the marks of taken
//! addresses and ports.
//!
//! Every write keeps them right in its own transaction, so this finds something only after a store
//! was edited by hand or restored in part. It runs when an API server starts. Both sides are read at
//! one revision, and each correction happens only if what it rests on is still so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Registry, codec, key, service};
use crate::api::{Kind, Status, kinds};
use crate::client::etcd::{Entry, Range, StoreError, Txn, prefix_end};

/// Entries per read.
const CHUNK: i64 = 500;

/// A key that should exist, and the object it comes from.
struct Derived {
    value: Bytes,
    source: Bytes,
    source_revision: i64,
}

impl Registry {
    /// Makes the derived keys agree with the objects. Answers how many did not.
    pub async fn repair(&self) -> Result<usize, Status> {
        let failed = |error: StoreError| codec::store_error(&error);
        let now = self.store().range(&Range::key(key::FORMAT)).await.map_err(failed)?.revision;
        let pods = self.all(&key::prefix(&kinds::POD, None), now).await.map_err(failed)?;
        let copies = self.all(key::pods_by_node_all(), now).await.map_err(failed)?;
        let services = self.all(&key::prefix(&kinds::SERVICE, None), now).await.map_err(failed)?;
        let mut taken = self.all(key::service_ips(), now).await.map_err(failed)?;
        taken.extend(self.all(key::node_ports(), now).await.map_err(failed)?);

        let mut corrected =
            self.agree(derive(&kinds::POD, &pods)?, copies).await.map_err(failed)?;
        corrected +=
            self.agree(derive(&kinds::SERVICE, &services)?, taken).await.map_err(failed)?;
        if corrected > 0 {
            tracing::warn!(corrected, "derived keys did not agree with the objects");
        }
        Ok(corrected)
    }

    async fn all(&self, prefix: &str, revision: i64) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let start = entries.last().map_or_else(
                || Bytes::copy_from_slice(prefix.as_bytes()),
                |last| [&last.key[..], b"\0"].concat().into(),
            );
            let range = Range {
                key: start,
                range_end: prefix_end(prefix.as_bytes()),
                limit: CHUNK,
                revision,
                ..Range::default()
            };
            let answer = self.store().range(&range).await?;
            entries.extend(answer.entries);
            if !answer.more {
                return Ok(entries);
            }
        }
    }

    async fn agree(
        &self,
        wanted: BTreeMap<String, Derived>,
        present: Vec<Entry>,
    ) -> Result<usize, StoreError> {
        let mut corrected = 0;
        let mut right = BTreeSet::new();
        for entry in present {
            let path = String::from_utf8_lossy(&entry.key).into_owned();
            match wanted.get(&path) {
                Some(derived) if derived.value == entry.value => {
                    right.insert(path);
                }
                _ => {
                    let txn = Txn::new().when_modified_at(entry.key.clone(), entry.mod_revision);
                    self.store().txn(txn.delete(entry.key)).await?;
                    corrected += 1;
                }
            }
        }
        for (path, derived) in wanted.into_iter().filter(|(path, _)| !right.contains(path)) {
            let txn = Txn::new().when_modified_at(derived.source, derived.source_revision);
            self.store().txn(txn.put(path, derived.value)).await?;
            corrected += 1;
        }
        Ok(corrected)
    }
}

/// The keys that follow from objects.
fn derive(kind: &'static Kind, entries: &[Entry]) -> Result<BTreeMap<String, Derived>, Status> {
    let mut wanted = BTreeMap::new();
    for entry in entries {
        let object = codec::decode(entry)?;
        let derived = |value: Bytes| Derived {
            value,
            source: entry.key.clone(),
            source_revision: entry.mod_revision,
        };
        if *kind == kinds::POD {
            if let Some(node) = object.text("/spec/nodeName").filter(|node| !node.is_empty()) {
                let path = key::pod_by_node(node, &object.key());
                wanted.insert(path, derived(entry.value.clone()));
            }
        } else {
            for path in service::held(kind, &object) {
                wanted.insert(path, derived(object.key().to_string().into()));
            }
        }
    }
    Ok(wanted)
}
