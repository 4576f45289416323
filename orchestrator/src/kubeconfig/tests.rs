//! Other people's entries stay; ours comes and goes.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::*;

const FOREIGN: &str = r#"
apiVersion: v1
kind: Config
current-context: work
clusters:
- name: work
  cluster:
    server: "https://work.example:6443"
    certificate-authority-data: V09SSw==
    proxy-url: socks5://localhost:1080
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: get-token
      args: ["--hours", "08", "yes", "1e3", ""]
      interactiveMode: IfAvailable
contexts:
- name: work
  context: {cluster: work, user: me, namespace: "007"}
x-unknown: [1, 2.5, null, true]
"#;

fn entry(ca: &str) -> Entry {
    Entry {
        server: "https://127.0.0.1:6443".into(),
        ca_pem: ca.into(),
        cert_pem: "certificate".into(),
        key_pem: "key".into(),
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

fn named(root: &Value, list: &str, name: &str) -> Option<Value> {
    let entries = root[list].as_array()?;
    entries.iter().find(|entry| entry["name"] == *name).cloned()
}

#[test]
fn a_first_file_has_all_kubectl_needs() {
    let (text, name) = merge::with(None, &entry("ca")).expect("merged");
    assert_eq!(name, "orchestrator");
    let root = yaml(&text);
    assert_eq!(root["apiVersion"], "v1");
    assert_eq!(root["kind"], "Config");
    assert_eq!(root["current-context"], "orchestrator");
    let cluster = named(&root, "clusters", "orchestrator").expect("a cluster");
    assert_eq!(cluster["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(cluster["cluster"]["certificate-authority-data"], "Y2E=");
    let user = named(&root, "users", "orchestrator").expect("a user");
    assert_eq!(user["user"]["client-key-data"], "a2V5");
    let context = named(&root, "contexts", "orchestrator").expect("a context");
    assert_eq!(context["context"], json!({"cluster": "orchestrator", "user": "orchestrator"}));
}

/// Goal: whatever else is in the file survives both ways, down to texts that look like numbers.
#[test]
fn foreign_entries_survive_coming_and_going() {
    let (text, name) = merge::with(Some(FOREIGN), &entry("ca")).expect("merged");
    let (before, after) = (yaml(FOREIGN), yaml(&text));
    for list in ["clusters", "users", "contexts"] {
        assert_eq!(after[list][0], before[list][0], "{list}");
    }
    assert_eq!(after["x-unknown"], before["x-unknown"]);
    assert_eq!(after["current-context"], "orchestrator");

    let text = merge::without(&text, &name, "ca").expect("taken out").expect("it was there");
    let mut expected = before;
    expected["current-context"] = "".into();
    expected["preferences"] = json!({});
    assert_eq!(yaml(&text), expected);
}

#[test]
fn a_second_start_changes_nothing_and_keeps_the_namespace() {
    let (first, _) = merge::with(Some(FOREIGN), &entry("ca")).expect("merged");
    let (second, _) = merge::with(Some(&first), &entry("ca")).expect("merged");
    assert_eq!(first, second);
    let chosen =
        first.replace("    user: orchestrator", "    user: orchestrator\n    namespace: mine");
    assert_ne!(first, chosen, "the text has the line this test edits");
    let (third, _) = merge::with(Some(&chosen), &entry("ca")).expect("merged");
    let context = named(&yaml(&third), "contexts", "orchestrator").expect("a context");
    assert_eq!(context["context"]["namespace"], "mine");
}

/// Goal: a name is only reused for the same cluster: its authority, or its address after a purge.
#[test]
fn a_taken_name_is_not_overwritten() {
    let (first, _) = merge::with(None, &entry("one")).expect("merged");
    let (_, name) = merge::with(Some(&first), &entry("two")).expect("merged");
    assert_eq!(name, "orchestrator", "a purged cluster's entry at the same address is stale");

    let mut elsewhere = entry("two");
    elsewhere.server = "https://127.0.0.1:7443".into();
    let (both, name) = merge::with(Some(&first), &elsewhere).expect("merged");
    assert_eq!(name, "orchestrator-2");
    let root = yaml(&both);
    assert!(named(&root, "clusters", "orchestrator").is_some());
    assert_eq!(root["current-context"], "orchestrator-2");

    let kept = merge::without(&both, "orchestrator-2", "one").expect("read");
    assert!(kept.is_none(), "another authority's entry is not ours to take out");
}

#[test]
fn a_text_that_is_no_kubeconfig_is_left_alone() {
    for (text, says) in [
        ("clusters: [", "it is not YAML"),
        ("- a\n- b\n", "it is not a mapping"),
        ("clusters: {a: 1}\n", "clusters is not a list"),
    ] {
        let error = merge::with(Some(text), &entry("ca")).expect_err("refused").to_string();
        assert!(error.starts_with(says), "{text:?}: {error}");
    }
}

#[test]
fn the_file_is_found_as_kubectl_finds_it() {
    let caller = Caller {
        kubeconfig: Some(":/a/first:/a/second".into()),
        home: Some("/root".into()),
        sudo: Some(("/home/ann".into(), 1000, 1001)),
    };
    let path = |flag: Option<&str>, caller: &Caller| {
        locate(flag.map(Path::new), caller).expect("found").path
    };
    assert_eq!(path(Some("/flag"), &caller), Path::new("/flag"));
    assert_eq!(path(None, &caller), Path::new("/a/first"));
    let behind_sudo = Caller { kubeconfig: None, ..caller };
    let target = locate(None, &behind_sudo).expect("found");
    assert_eq!(target.path, Path::new("/home/ann/.kube/config"));
    assert_eq!(target.owner, Some((1000, 1001)));
    assert_eq!(path(None, &Caller { sudo: None, ..behind_sudo }), Path::new("/root/.kube/config"));
    assert!(matches!(locate(None, &Caller::default()), Err(Error::Nowhere)));
}

#[test]
fn the_file_is_private_and_links_are_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let real = dir.path().join("dotfiles");
    fs::write(&real, FOREIGN).expect("written");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).expect("set");
    let link = dir.path().join("config");
    std::os::unix::fs::symlink(&real, &link).expect("linked");

    let target = Target { path: link.clone(), owner: None };
    assert_eq!(add(&target, &entry("ca")).expect("added"), "orchestrator");
    assert!(link.is_symlink());
    let mode = fs::metadata(&real).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it holds a key now");
    assert!(remove(&target, "orchestrator", "ca").expect("read"));
    assert!(!remove(&target, "orchestrator", "ca").expect("read"), "it is gone already");
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 2, "nothing is left beside it");

    let fresh = Target { path: dir.path().join("new/.kube/config"), owner: None };
    add(&fresh, &entry("ca")).expect("added");
    let made = fs::metadata(dir.path().join("new/.kube")).expect("made");
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
}
