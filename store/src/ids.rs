//! Member and cluster ids, derived as etcd derives them: they are on disk, in every answer, and in
//! what operators have written down.

use sha1::{Digest, Sha1};

use crate::command::MemberId;

/// Who we are, in every answer's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// The cluster.
    pub(crate) cluster: u64,
    /// This member.
    pub(crate) member: MemberId,
}

/// The id of a member of a new cluster: its peer URLs, sorted, and the cluster's token.
pub(crate) fn member_id(peer_urls: &[&str], cluster_token: &str) -> MemberId {
    let mut urls = peer_urls.to_vec();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(cluster_token);
    MemberId(first_eight(hash))
}

/// The id of a new cluster: its members' ids, sorted.
pub(crate) fn cluster_id(members: &[MemberId]) -> u64 {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.0.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-1 gives twenty bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `etcd` 3.7 prints for a member started with its defaults.
    #[test]
    fn as_etcd_derives_them() {
        let member = member_id(&["http://localhost:2380"], "etcd-cluster");
        assert_eq!(format!("{:x}", member.0), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }
}
