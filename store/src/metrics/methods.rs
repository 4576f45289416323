//! Every RPC of the API, with its shape: the closed table that requests are matched against and
//! counted by.

/// How many messages go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Unary,
    ServerStream,
    BidiStream,
}

impl Shape {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// One RPC.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) shape: Shape,
}

impl Method {
    pub(crate) fn service(&self) -> &'static str {
        self.path[1..].split_once('/').map_or("", |(service, _)| service)
    }

    pub(super) fn name(&self) -> &'static str {
        self.path[1..].split_once('/').map_or("", |(_, name)| name)
    }

    /// What etcd calls the request behind it, for those that it times by that name.
    pub(super) fn request(&self) -> Option<&'static str> {
        let service = self.service();
        let name = self.name();
        match (service, name) {
            ("etcdserverpb.KV", "Compact") => Some("Compaction"),
            ("etcdserverpb.Auth", "UserAdd") => Some("AuthUserAdd"),
            ("etcdserverpb.Auth", "UserChangePassword") => Some("AuthUserChangePassword"),
            ("etcdserverpb.Auth", "UserDelete") => Some("AuthUserDelete"),
            ("etcdserverpb.Auth", "UserGet") => Some("AuthUserGet"),
            ("etcdserverpb.Auth", "UserGrantRole") => Some("AuthUserGrantRole"),
            ("etcdserverpb.Auth", "UserList") => Some("AuthUserList"),
            ("etcdserverpb.Auth", "UserRevokeRole") => Some("AuthUserRevokeRole"),
            ("etcdserverpb.Auth", "RoleAdd") => Some("AuthRoleAdd"),
            ("etcdserverpb.Auth", "RoleDelete") => Some("AuthRoleDelete"),
            ("etcdserverpb.Auth", "RoleGet") => Some("AuthRoleGet"),
            ("etcdserverpb.Auth", "RoleGrantPermission") => Some("AuthRoleGrantPermission"),
            ("etcdserverpb.Auth", "RoleList") => Some("AuthRoleList"),
            ("etcdserverpb.Auth", "RoleRevokePermission") => Some("AuthRoleRevokePermission"),
            ("etcdserverpb.Auth", _) => Some(name),
            ("etcdserverpb.KV", "Range" | "Put" | "DeleteRange" | "Txn") => Some(name),
            ("etcdserverpb.Lease", "LeaseGrant" | "LeaseRevoke") => Some(name),
            ("etcdserverpb.Maintenance", "Alarm") => Some(name),
            _ => None,
        }
    }
}

const fn unary(path: &'static str) -> Method {
    Method { path, shape: Shape::Unary }
}

const fn server_stream(path: &'static str) -> Method {
    Method { path, shape: Shape::ServerStream }
}

const fn bidi_stream(path: &'static str) -> Method {
    Method { path, shape: Shape::BidiStream }
}

/// Every RPC, sorted by path.
pub(crate) const METHODS: &[Method] = &[
    unary("/etcdserverpb.Auth/AuthDisable"),
    unary("/etcdserverpb.Auth/AuthEnable"),
    unary("/etcdserverpb.Auth/AuthStatus"),
    unary("/etcdserverpb.Auth/Authenticate"),
    unary("/etcdserverpb.Auth/RoleAdd"),
    unary("/etcdserverpb.Auth/RoleDelete"),
    unary("/etcdserverpb.Auth/RoleGet"),
    unary("/etcdserverpb.Auth/RoleGrantPermission"),
    unary("/etcdserverpb.Auth/RoleList"),
    unary("/etcdserverpb.Auth/RoleRevokePermission"),
    unary("/etcdserverpb.Auth/UserAdd"),
    unary("/etcdserverpb.Auth/UserChangePassword"),
    unary("/etcdserverpb.Auth/UserDelete"),
    unary("/etcdserverpb.Auth/UserGet"),
    unary("/etcdserverpb.Auth/UserGrantRole"),
    unary("/etcdserverpb.Auth/UserList"),
    unary("/etcdserverpb.Auth/UserRevokeRole"),
    unary("/etcdserverpb.Cluster/MemberAdd"),
    unary("/etcdserverpb.Cluster/MemberList"),
    unary("/etcdserverpb.Cluster/MemberPromote"),
    unary("/etcdserverpb.Cluster/MemberRemove"),
    unary("/etcdserverpb.Cluster/MemberUpdate"),
    unary("/etcdserverpb.KV/Compact"),
    unary("/etcdserverpb.KV/DeleteRange"),
    unary("/etcdserverpb.KV/Put"),
    unary("/etcdserverpb.KV/Range"),
    server_stream("/etcdserverpb.KV/RangeStream"),
    unary("/etcdserverpb.KV/Txn"),
    unary("/etcdserverpb.Lease/LeaseGrant"),
    bidi_stream("/etcdserverpb.Lease/LeaseKeepAlive"),
    unary("/etcdserverpb.Lease/LeaseLeases"),
    unary("/etcdserverpb.Lease/LeaseRevoke"),
    unary("/etcdserverpb.Lease/LeaseTimeToLive"),
    unary("/etcdserverpb.Maintenance/Alarm"),
    unary("/etcdserverpb.Maintenance/Defragment"),
    unary("/etcdserverpb.Maintenance/Downgrade"),
    unary("/etcdserverpb.Maintenance/Hash"),
    unary("/etcdserverpb.Maintenance/HashKV"),
    unary("/etcdserverpb.Maintenance/MoveLeader"),
    server_stream("/etcdserverpb.Maintenance/Snapshot"),
    unary("/etcdserverpb.Maintenance/Status"),
    bidi_stream("/etcdserverpb.Watch/Watch"),
    unary("/grpc.health.v1.Health/Check"),
    unary("/grpc.health.v1.Health/List"),
    server_stream("/grpc.health.v1.Health/Watch"),
    unary("/v3electionpb.Election/Campaign"),
    unary("/v3electionpb.Election/Leader"),
    server_stream("/v3electionpb.Election/Observe"),
    unary("/v3electionpb.Election/Proclaim"),
    unary("/v3electionpb.Election/Resign"),
    unary("/v3lockpb.Lock/Lock"),
    unary("/v3lockpb.Lock/Unlock"),
];

/// The place of a path in the table.
pub(crate) fn find(path: &str) -> Option<usize> {
    METHODS.binary_search_by(|method| method.path.cmp(path)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
        assert!(METHODS.iter().enumerate().all(|(at, method)| find(method.path) == Some(at)));
        assert_eq!(find("/etcdserverpb.KV/Nope"), None);
    }
}
