//! The table is whole: every RPC has its path, and every path its RPC.

use std::collections::BTreeSet;

use prost_reflect::DescriptorPool;

use super::paths::{GRPC_ONLY, PATHS};
use super::{Gateway, write};

#[test]
fn every_rpc_has_a_path() {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("built in");
    let named: BTreeSet<_> = PATHS
        .iter()
        .map(|(_, service, method)| (*service, *method))
        .chain(GRPC_ONLY.iter().copied())
        .collect();
    for service in pool.services() {
        for method in service.methods() {
            let rpc = (service.full_name(), method.name());
            assert!(named.contains(&rpc), "{rpc:?} has no path");
        }
    }
    assert_eq!(Gateway::new().routes.len(), PATHS.len());
}

/// Goal: what the gateway answers was compared with etcd, path by path. Method: each path is asked in
/// a script whose answers were recorded from etcd (`tests/tests/it/gateway`).
#[test]
fn every_path_is_compared_with_etcd() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests/it/gateway");
    let scripts = std::fs::read_dir(folder).expect("the scripts are in the repository");
    let mut asked = BTreeSet::new();
    for script in scripts {
        let script = std::fs::read_to_string(script.expect("a file").path()).expect("a script");
        let posts = script.lines().filter_map(|line| line.strip_prefix("post "));
        asked.extend(posts.filter_map(|post| post.split(' ').next().map(str::to_owned)));
    }
    for (path, ..) in PATHS {
        assert!(asked.contains(*path), "{path} is in no script");
    }
}

#[test]
fn answers_are_written_as_etcd_writes_them() {
    use prost::Message;
    use proto::etcdserverpb as pb;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("built in");
    let message = pool.get_message_by_name("etcdserverpb.WatchResponse").expect("etcd's");
    let answer = pb::WatchResponse {
        header: Some(pb::ResponseHeader { cluster_id: u64::MAX, ..Default::default() }),
        canceled: true,
        cancel_reason: "a \"reason\" <&>".to_owned(),
        events: vec![proto::mvccpb::Event {
            r#type: 1,
            kv: Some(proto::mvccpb::KeyValue {
                key: vec![0xff, 0xef].into(),
                ..Default::default()
            }),
            prev_kv: None,
        }],
        ..Default::default()
    };
    let json = write::json(&message, answer.encode_to_vec().into()).expect("can be written");
    let expected = "{\"header\":{\"cluster_id\":\"18446744073709551615\"},\"canceled\":true,\
        \"cancel_reason\":\"a \\\"reason\\\" <&>\",\"events\":[{\"type\":\"DELETE\",\
        \"kv\":{\"key\":\"/+8=\"}}]}";
    assert_eq!(String::from_utf8(json).expect("UTF-8"), expected);
}

#[test]
fn an_error_has_a_number_and_a_text() {
    let error = write::status(&tonic::Status::not_found("a \"lease\""));
    assert_eq!(error, b"{\"code\":5,\"message\":\"a \\\"lease\\\"\"}");
}
