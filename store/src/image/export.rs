//! A moment of the store, as the contents of an image.
//!
//! What compaction has forgotten is left out, whether or not its rows are gone already: at or below
//! the compacted revision a version counts only if it is the newest of its key there. A tombstone
//! exactly there stays, for a watcher that starts there must see the deletion.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{
    STORAGE_VERSION, Stop,
    schema::{self, Bucket, Stored, StoredMember, fact},
    write::{self, Contents, Items, Layout, Sink},
};
use crate::{
    command::{Member, Revision},
    engine::Moment,
    machine::rows::Version,
    raft,
};

/// An image that is ready to be written, its length known.
pub struct Export {
    contents: Store,
    layout: Layout,
}

impl Export {
    /// Counts what a moment's image will hold. Reads all of it.
    pub fn measure(moment: Moment) -> Result<Self, Stop> {
        let contents = Store::new(moment)?;
        let layout = write::measure(&contents)?;
        Ok(Self { contents, layout })
    }

    /// The length of the file, without the digest that follows it in backups.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// The newest revision in it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.contents.moment.view.revision()
    }

    /// Writes the file and gives its SHA-256, which follows the file in backups.
    pub fn write(&self, sink: &mut impl Sink) -> Result<[u8; 32], Stop> {
        let mut hashing = Hashing { digest: Sha256::new(), sink };
        write::write(&self.contents, self.layout, &mut hashing)?;
        Ok(hashing.digest.finalize().into())
    }
}

struct Hashing<'a, S> {
    digest: Sha256,
    sink: &'a mut S,
}

impl<S: Sink> Sink for Hashing<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.digest.update(bytes);
        self.sink.write(bytes)
    }
}

/// The moment, and its small buckets made beforehand.
struct Store {
    moment: Moment,
    small: BTreeMap<&'static [u8], BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Store {
    fn new(moment: Moment) -> Result<Self, Stop> {
        let mut small: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        let alarms = moment.view.alarms().iter();
        let alarms = alarms.map(|alarm| (schema::encode_alarm(*alarm), Vec::new()));
        small.insert(Bucket::ALARM, alarms.collect());
        let raft = raft::describe(moment.raft.clone())?;
        let members = members(&raft, moment.view.members());
        let members =
            members.map(|member| (schema::member_key(member.attributes.id), member.encode()));
        small.insert(Bucket::MEMBERS, members.collect());
        small.insert(Bucket::META, meta(&moment, &raft));
        let version = (fact::CLUSTER_VERSION.to_vec(), STORAGE_VERSION.into());
        small.insert(Bucket::CLUSTER, BTreeMap::from([version]));
        let auth = &moment.auth;
        let revision = auth.revision().to_be_bytes().to_vec();
        let facts = [
            (fact::AUTH_ENABLED.to_vec(), vec![u8::from(auth.enabled())]),
            (fact::AUTH_REVISION.to_vec(), revision),
        ];
        small.insert(Bucket::AUTH, facts.into());
        let users = auth.users();
        let users = users.map(|user| (user.name.clone().into(), schema::encode_user(user)));
        small.insert(Bucket::AUTH_USERS, users.collect());
        let roles = auth.roles().map(|(name, role)| {
            (name.as_bytes().to_vec(), schema::encode_role(name, role.permissions()))
        });
        small.insert(Bucket::AUTH_ROLES, roles.collect());
        Ok(Self { moment, small })
    }
}

fn members(raft: &raft::Described, attributes: &[Member]) -> impl Iterator<Item = StoredMember> {
    raft.members.iter().map(|member| {
        let known = attributes.iter().find(|known| known.id.0 == member.id);
        let unknown = || Member { id: crate::command::MemberId(member.id), ..Member::default() };
        StoredMember {
            attributes: known.cloned().unwrap_or_else(unknown),
            peer_urls: member.urls.clone(),
            is_learner: !member.is_voter,
        }
    })
}

fn meta(moment: &Moment, raft: &raft::Described) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let ids = |voters: bool| -> Vec<u64> {
        raft.members.iter().filter(|it| it.is_voter == voters).map(|member| member.id).collect()
    };
    let mut meta = BTreeMap::from([
        // etcd takes no index and no term of zero for an answer.
        (fact::CONSISTENT_INDEX, moment.applied.unwrap_or(0).max(1).to_be_bytes().to_vec()),
        (fact::TERM, raft.term.max(1).to_be_bytes().to_vec()),
        (fact::STORAGE_VERSION, STORAGE_VERSION.into()),
        (fact::CONF_STATE, schema::conf_state(&ids(true), &ids(false))),
    ]);
    let compacted = moment.view.compacted();
    if compacted.0 > 0 {
        let key = schema::revision_key(Version { main: compacted, sub: 0 }, false);
        meta.insert(fact::SCHEDULED_COMPACTION, key.clone());
        meta.insert(fact::FINISHED_COMPACTION, key);
    }
    meta.into_iter().map(|(name, value)| (name.to_vec(), value)).collect()
}

impl Contents for Store {
    fn buckets(&self) -> Vec<&'static [u8]> {
        Bucket::ALL.to_vec()
    }

    fn items(&self, bucket: &[u8], take: &mut Items<'_>) -> Result<(), Stop> {
        if bucket == Bucket::KEY {
            return self.versions(take);
        }
        if bucket == Bucket::LEASE {
            return self.leases(take);
        }
        for (key, value) in self.small.get(bucket).into_iter().flatten() {
            take(key, value)?;
        }
        Ok(())
    }
}

impl Store {
    fn versions(&self, take: &mut Items<'_>) -> Result<(), Stop> {
        let mut value = Vec::new();
        self.moment.view.retained(&mut |found| {
            let meta = &found.meta;
            let is_tombstone = meta.is_tombstone();
            let stored = if is_tombstone {
                Stored { key: found.key, ..Stored::default() }
            } else {
                Stored {
                    key: found.key,
                    create: meta.create.0,
                    modified: meta.at.main.0,
                    version: meta.version,
                    value: found.value,
                    lease: meta.lease.0,
                }
            };
            stored.encode(&mut value);
            take(&schema::revision_key(meta.at, is_tombstone), &value)
        })
    }

    /// Big-endian numbers sort as if they had no sign, so leases below zero come last.
    fn leases(&self, take: &mut Items<'_>) -> Result<(), Stop> {
        let leases = &self.moment.leases;
        let split = leases.partition_point(|(id, ..)| id.0 < 0);
        for lease in leases[split..].iter().chain(&leases[..split]) {
            take(&schema::lease_key(lease.0), &schema::encode_lease(*lease))?;
        }
        Ok(())
    }
}
