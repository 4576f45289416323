//! Which path is which RPC: etcd's table.
//!
//! The `.proto` files here carry no HTTP annotations, so the table is written down. It names no
//! message and no shape: those come from the descriptors, so an RPC that is in the descriptors and
//! in this table works without another line.

/// Path below `/v3/`, service, method.
pub(super) const PATHS: &[(&str, &str, &str)] = &[
    ("auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("election/campaign", "v3electionpb.Election", "Campaign"),
    ("election/leader", "v3electionpb.Election", "Leader"),
    ("election/observe", "v3electionpb.Election", "Observe"),
    ("election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("election/resign", "v3electionpb.Election", "Resign"),
    ("kv/compaction", "etcdserverpb.KV", "Compact"),
    ("kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    // Where leases were until etcd 3.3; clients in use still ask there.
    ("kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("kv/put", "etcdserverpb.KV", "Put"),
    ("kv/range", "etcdserverpb.KV", "Range"),
    ("kv/txn", "etcdserverpb.KV", "Txn"),
    ("lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("lock/lock", "v3lockpb.Lock", "Lock"),
    ("lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("watch", "etcdserverpb.Watch", "Watch"),
];

/// RPCs that etcd offers over gRPC only.
#[cfg(test)]
pub(super) const GRPC_ONLY: &[(&str, &str)] = &[("etcdserverpb.KV", "RangeStream")];
