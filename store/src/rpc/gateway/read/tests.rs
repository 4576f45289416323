//! What is taken and what is refused. The answers are etcd 3.7's.

use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use proto::etcdserverpb as pb;

use super::wire;

fn message(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("built in");
    pool.get_message_by_name(name).expect("a message of etcd's")
}

fn read<T: Message + Default>(name: &str, json: &str) -> T {
    let message = message(&format!("etcdserverpb.{name}"));
    let wire = wire(&message, json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
    T::decode(wire.as_slice()).expect("what was written can be read")
}

fn refused(name: &str, json: &str) -> String {
    let message = message(&format!("etcdserverpb.{name}"));
    match wire(&message, json.as_bytes()) {
        Ok(wire) => panic!("{json} was read as {wire:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn numbers_may_be_strings_and_strings_may_hold_any_number() {
    for text in ["7", "\"7\"", "7.0", "\"7.0\"", "70e-1", "\"7e0\""] {
        let range: pb::RangeRequest = read("RangeRequest", &format!("{{\"limit\":{text}}}"));
        assert_eq!(range.limit, 7, "{text}");
    }
    let range: pb::RangeRequest =
        read("RangeRequest", "{\"limit\":\"-9223372036854775808\",\"revision\":-0}");
    assert_eq!((range.limit, range.revision), (i64::MIN, 0));
    let alarm: pb::AlarmRequest = read("AlarmRequest", "{\"memberID\":\"18446744073709551615\"}");
    assert_eq!(alarm.member_id, u64::MAX);
    for text in [
        "1.5",
        "\"1.5\"",
        "\"01\"",
        "\"+1\"",
        "\" 1\"",
        "\"1 \"",
        "\"\"",
        "\"0x1\"",
        "1e400",
        "9223372036854775808",
        "\"9223372036854775808\"",
        "true",
        "[]",
        "[1]",
        "{}",
        "\"NaN\"",
        "NaN",
        "Infinity",
    ] {
        refused("RangeRequest", &format!("{{\"limit\":{text}}}"));
    }
}

#[test]
fn bytes_are_base64_as_go_reads_it() {
    let cases: [(&str, &[u8]); 7] = [
        ("Zm9v", b"foo"),
        ("Zm8=", b"fo"),
        ("Zm8", b"fo"),
        ("Zh==", b"f"),
        ("_-8=", &[0xff, 0xef]),
        ("/+8=", &[0xff, 0xef]),
        ("Zm\\n9v", b"foo"),
    ];
    for (text, bytes) in cases {
        let range: pb::RangeRequest = read("RangeRequest", &format!("{{\"key\":\"{text}\"}}"));
        assert_eq!(range.key, bytes, "{text}");
    }
    for text in
        ["\"!!\"", "\"Zm9v==\"", "\"Z\"", "\"_+8=\"", "\"Zm8==\"", "\"Zm\\n8=\"", "7", "[90]"]
    {
        refused("RangeRequest", &format!("{{\"key\":{text}}}"));
    }
}

#[test]
fn fields_go_by_either_name_and_unknown_ones_are_ignored() {
    let text = "{\"range_end\":\"Zg==\",\"keysOnly\":true,\"nope\":{\"a\":[{},1.5e9]},\"@type\":7}";
    let range: pb::RangeRequest = read("RangeRequest", text);
    assert_eq!((range.range_end.as_ref(), range.keys_only), (b"f".as_slice(), true));
    let range: pb::RangeRequest = read("RangeRequest", "{\"Key\":\"Zg==\",\"key\":null}");
    assert_eq!(range, pb::RangeRequest::default());
}

#[test]
fn enums_go_by_name_or_number_and_unknown_names_are_ignored() {
    let order = |text: &str| {
        let range: pb::RangeRequest = read("RangeRequest", &format!("{{\"sort_order\":{text}}}"));
        range.sort_order
    };
    let all = ["\"DESCEND\"", "2", "2.0", "\"NOPE\"", "\"2\"", "null", "77"].map(order);
    assert_eq!(all, [2, 2, 2, 0, 0, 0, 77]);
    refused("RangeRequest", "{\"sort_order\":2147483648}");
    refused("RangeRequest", "{\"sort_order\":true}");
    let watch: pb::WatchCreateRequest =
        read("WatchCreateRequest", "{\"filters\":[\"NOPE\",1,\"NOPUT\"]}");
    assert_eq!(watch.filters, [1, 0]);
}

#[test]
fn booleans_are_booleans_only() {
    for text in ["1", "\"true\"", "[true]"] {
        refused("RangeRequest", &format!("{{\"serializable\":{text}}}"));
    }
}

#[test]
fn a_question_has_one_answer() {
    let error = refused("RangeRequest", "{\"key\":\"Zg==\",\"key\":\"Zg==\"}");
    assert!(error.contains("duplicate field \"key\""), "{error}");
    let error = refused("RangeRequest", "{\"range_end\":\"Zg==\",\"rangeEnd\":\"Zg==\"}");
    assert!(error.contains("duplicate field \"rangeEnd\""), "{error}");
    let error = refused("Compare", "{\"version\":\"0\",\"value\":\"Zg==\"}");
    assert!(error.contains("target_union is already set"), "{error}");
}

#[test]
fn a_union_is_set_even_to_zero() {
    let compare: pb::Compare = read("Compare", "{\"version\":\"0\",\"value\":null}");
    assert_eq!(compare.target_union, Some(pb::compare::TargetUnion::Version(0)));
    let watch: pb::WatchRequest = read("WatchRequest", "{\"createRequest\":{}}");
    assert!(watch.request_union.is_some());
}

#[test]
fn lists_hold_no_null_and_nothing_else_is_a_list() {
    let txn: pb::TxnRequest = read(
        "TxnRequest",
        "{\"compare\":null,\"success\":[{},{\"requestTxn\":{\"failure\":[{}]}}]}",
    );
    assert_eq!((txn.compare.len(), txn.success.len()), (0, 2));
    for text in
        ["{\"success\":[null]}", "{\"success\":{}}", "{\"success\":\"x\"}", "{\"success\":7}"]
    {
        refused("TxnRequest", text);
    }
    refused("WatchRequest", "{\"create_request\":[]}");
    refused("WatchRequest", "{\"create_request\":7}");
}

#[test]
fn broken_json_is_an_error_and_what_follows_is_not_read() {
    for text in [
        "",
        "{",
        "{]",
        "null",
        "[]",
        "{\"key\"}",
        "{'key':1}",
        "{\"key\":\"Zg==\",}",
        "{\"limit\":01}",
        "{\"name\":\"\\ud800x\"}",
    ] {
        refused("AuthUserAddRequest", text);
    }
    let range: pb::RangeRequest = read("RangeRequest", "{\"limit\":7} trash");
    assert_eq!(range.limit, 7);
}

#[test]
fn depth_is_bounded_and_enough_for_the_deepest_transaction_that_grpc_takes() {
    let nested = |depth: usize| {
        let open = "{\"success\":[{\"request_txn\":".repeat(depth);
        format!("{open}{{}}{}", "}]}".repeat(depth))
    };
    let _: pb::TxnRequest = read("TxnRequest", &nested(40));
    let deep = nested(100_000);
    refused("TxnRequest", &deep);
    refused("TxnRequest", &format!("{{\"nope\":{}", "[".repeat(1_000_000)));
}

/// The reader writes the kinds of fields that etcd's messages have; a new kind must be seen here.
#[test]
fn all_fields_are_of_a_kind_that_is_read() {
    use prost_reflect::Kind;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("built in");
    for field in pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>()) {
        let known = matches!(
            field.kind(),
            Kind::Bool
                | Kind::String
                | Kind::Bytes
                | Kind::Enum(_)
                | Kind::Message(_)
                | Kind::Int32
                | Kind::Int64
                | Kind::Uint32
                | Kind::Uint64
        );
        assert!(known && !field.is_map(), "{field:?}");
    }
}
