//! Output formats: which there are, and how the one that is not text is read.

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

/// What `--write-out` takes.
pub(super) const FORMATS: [&str; 5] = ["simple", "json", "fields", "table", "protobuf"];

/// The message that a command prints in the last format; of leases it is only the header. The other
/// commands print text whatever the format, or refuse it.
const MESSAGES: [(&str, &str); 32] = [
    ("put", "PutResponse"),
    ("get", "RangeResponse"),
    ("del", "DeleteRangeResponse"),
    ("txn", "TxnResponse"),
    ("watch", "WatchResponse"),
    ("lease grant", "ResponseHeader"),
    ("lease revoke", "LeaseRevokeResponse"),
    ("lease timetolive", "ResponseHeader"),
    ("lease list", "ResponseHeader"),
    ("lease keep-alive", "ResponseHeader"),
    ("alarm list", "AlarmResponse"),
    ("alarm disarm", "AlarmResponse"),
    ("member list", "MemberListResponse"),
    ("member add", "MemberAddResponse"),
    ("member remove", "MemberRemoveResponse"),
    ("member update", "MemberUpdateResponse"),
    ("member promote", "MemberPromoteResponse"),
    ("user add", "AuthUserAddResponse"),
    ("user delete", "AuthUserDeleteResponse"),
    ("user get", "AuthUserGetResponse"),
    ("user list", "AuthUserListResponse"),
    ("user passwd", "AuthUserChangePasswordResponse"),
    ("user grant-role", "AuthUserGrantRoleResponse"),
    ("user revoke-role", "AuthUserRevokeRoleResponse"),
    ("role add", "AuthRoleAddResponse"),
    ("role delete", "AuthRoleDeleteResponse"),
    ("role get", "AuthRoleGetResponse"),
    ("role list", "AuthRoleListResponse"),
    ("role grant-permission", "AuthRoleGrantPermissionResponse"),
    ("role revoke-permission", "AuthRoleRevokePermissionResponse"),
    ("auth status", "AuthStatusResponse"),
    ("downgrade cancel", "DowngradeResponse"),
];

/// What a command printed, as text: with `-w protobuf` the message is decoded and told as JSON.
pub(super) fn legible(args: &str, output: &[u8]) -> String {
    let is_message = args.contains("-w protobuf");
    let message = MESSAGES.iter().find(|(command, _)| is_message && is_of(args, command));
    let json = message.and_then(|(_, name)| json(name, output));
    json.unwrap_or_else(|| String::from_utf8_lossy(output).into_owned())
}

/// Whether the words of a command are those of `command`, wherever flags stand.
fn is_of(args: &str, command: &str) -> bool {
    let args = args.strip_prefix("-w protobuf ").unwrap_or(args);
    args.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn json(name: &str, output: &[u8]) -> Option<String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors are built in");
    let message = pool.get_message_by_name(&format!("etcdserverpb.{name}")).expect(name);
    // Errors are text, and so is nothing at all.
    let message = DynamicMessage::decode(message, output).ok().filter(|_| !output.is_empty())?;
    let options =
        SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true);
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    message.serialize_with_options(&mut serializer, &options).ok()?;
    Some(format!("{name} {}\n", String::from_utf8(json).ok()?))
}
