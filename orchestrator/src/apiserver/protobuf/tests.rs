//! Bodies recorded from real kubectl 1.32, and bodies nobody should send.
//!
//! `recorded/<name>.bin` is what `kubectl create <name> …` put on the wire, `<name>.json` what it
//! stands for. `UPDATE_GOLDENFILES=1` rewrites the latter, to be read in the diff.

use std::path::PathBuf;

use serde_json::json;

use super::*;

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.bin"))).expect("a recorded body")
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/apiserver/protobuf/recorded")
}

#[test]
fn recorded_bodies_of_kubectl() {
    let mut names: Vec<_> = std::fs::read_dir(folder())
        .expect("the folder of recorded bodies")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "bin"))
        .collect();
    names.sort();
    assert!(names.len() > 10);
    for body in names {
        let found = decode(&std::fs::read(&body).expect("readable")).expect("decodes");
        let golden = body.with_extension("json");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            let text = serde_json::to_string_pretty(&found).expect("serialises") + "\n";
            std::fs::write(&golden, text).expect("writable");
        }
        let text = std::fs::read_to_string(&golden).expect("a golden file");
        let wanted: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(found, wanted, "{}", body.display());
    }
}

/// Zero replicas were asked for and stay; an empty node port was not and goes.
#[test]
fn a_zero_is_kept_only_where_it_was_said() {
    let deployment = decode(&recorded("deployment")).expect("decodes");
    assert_eq!(deployment.pointer("/spec/replicas"), Some(&json!(0)));
    assert_eq!(deployment.pointer("/metadata/generateName"), None);
    let service = decode(&recorded("service")).expect("decodes");
    assert_eq!(service.pointer("/spec/ports/0/targetPort"), Some(&json!(8080)));
    assert_eq!(service.pointer("/spec/ports/0/nodePort"), None);
}

#[test]
fn a_foreign_or_cut_body_is_an_error() {
    assert_eq!(decode(b"{}"), Err(Malformed::NoEnvelope));
    assert_eq!(decode(b""), Err(Malformed::NoEnvelope));
    assert_eq!(
        decode(b"k8s\0"),
        Err(Malformed::UnknownKind { api_version: String::new(), kind: String::new() })
    );
    let whole = recorded("deployment");
    for end in 4..whole.len() {
        // Cut anywhere: an error or a smaller object, never a panic.
        let _ = decode(&whole[..end]);
    }
    for at in 4..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            let _ = decode(&flipped);
        }
    }
}

#[test]
fn inlined_messages_join_their_parent() {
    // ConfigMap volume: `volumeSource` and `localObjectReference` are flattened twice over.
    let reference = message(&[(1, b"conf")]);
    let source = message(&[(1, &reference)]);
    let volume_source = message(&[(19, &source)]);
    let volume = message(&[(1, b"v"), (2, &volume_source)]);
    let spec = message(&[(1, &volume)]);
    let pod = message(&[(2, &spec)]);
    let meta = message(&[(1, b"v1"), (2, b"Pod")]);
    let mut body = MAGIC.to_vec();
    body.extend(message(&[(1, &meta), (2, &pod)]));
    assert_eq!(
        decode(&body),
        Ok(json!({
            "apiVersion": "v1", "kind": "Pod",
            "spec": {"volumes": [{"name": "v", "configMap": {"name": "conf"}}]},
        }))
    );
}

/// Encodes length-delimited fields: all that the test above needs.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, payload) in fields {
        // The tag as a varint: two bytes from field 16 on.
        let tag = u16::from(*number) << 3 | 2;
        let low = u8::try_from(tag & 0x7f).expect("seven bits");
        let high = u8::try_from(tag >> 7).expect("fields of these tests are below 2048");
        if high == 0 {
            bytes.push(low)
        } else {
            bytes.extend([low | 0x80, high])
        }
        bytes.push(u8::try_from(payload.len()).expect("short"));
        bytes.extend_from_slice(payload);
    }
    bytes
}
