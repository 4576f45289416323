//! Certificates on disk: made once, renewed for a reason, refused when damaged.

use std::os::unix::fs::PermissionsExt as _;

use time::Duration;

use super::issue::Facts;
use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_790_000_000).expect("a fixed date")
}

fn names() -> Names {
    Names {
        node: "node-1".into(),
        host: "box".into(),
        addresses: vec!["192.0.2.7".parse().expect("an address")],
        api_service: "10.96.0.1".parse().expect("an address"),
    }
}

fn facts(pki: &Pki, role: Role) -> Facts {
    Facts::read(&pki.identity(role).expect("it was made").cert_pem).expect("it is a certificate")
}

/// Goal: who each certificate speaks for is what the API server's authorisation is written against.
#[test]
fn each_role_speaks_for_its_kubernetes_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(dir.path(), &names(), now()).expect("a first start");
    assert_eq!(pki.renewed.len(), Role::ALL.len());
    let said = Role::ALL.map(|role| {
        let facts = facts(&pki, role);
        format!("{role:?}: {} {}", facts.common_name, facts.organisation.unwrap_or_default())
    });
    assert_eq!(
        said,
        [
            "Apiserver: kube-apiserver ",
            "ApiserverKubeletClient: kube-apiserver-kubelet-client system:masters",
            "Admin: kubernetes-admin system:masters",
            "Scheduler: system:kube-scheduler ",
            "ControllerManager: system:kube-controller-manager ",
            "Kubelet: system:node:node-1 system:nodes",
            "KubeletServer: system:node:node-1 system:nodes",
            "Proxy: system:kube-proxy ",
            "StoreServer: store ",
            "StoreClient: root ",
        ]
    );
    let api = facts(&pki, Role::Apiserver);
    for name in ["kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "box"] {
        assert!(api.dns.iter().any(|held| held == name), "{name} is missing from {:?}", api.dns);
    }
    for address in ["10.96.0.1", "127.0.0.1", "192.0.2.7"] {
        let address: IpAddr = address.parse().expect("an address");
        assert!(api.addresses.contains(&address), "{address} is missing from {:?}", api.addresses);
    }
}

#[test]
fn a_second_start_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Pki::open(dir.path(), &names(), now()).expect("a first start");
    let second = Pki::open(dir.path(), &names(), now()).expect("a second start");
    assert!(second.renewed.is_empty(), "renewed {:?}", second.renewed);
    assert_eq!(first.ca_pem, second.ca_pem);
    assert_eq!(first.admin_token, second.admin_token);
    assert_eq!(first.admin_token.len(), 64);
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("pki");
    Pki::open(&home, &names(), now()).expect("a first start");
    assert_eq!(fs::metadata(&home).expect("made").permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&home).expect("made") {
        let path = entry.expect("readable").path();
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        let public = ["ca.crt", "store-ca.crt"].iter().any(|name| path.ends_with(name));
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{}", path.display());
    }
}

/// Goal: a new address or an end in sight renews the leaves it concerns, and never the authority.
#[test]
fn leaves_are_renewed_for_a_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Pki::open(dir.path(), &names(), now()).expect("a first start");

    let mut moved = names();
    moved.addresses = vec!["198.51.100.9".parse().expect("an address")];
    let second = Pki::open(dir.path(), &moved, now()).expect("a start elsewhere");
    let renewed = [Role::Apiserver, Role::KubeletServer, Role::StoreServer];
    assert_eq!(second.renewed, renewed.map(|role| (role, Stale::Names)));

    moved.addresses.clear();
    let third = Pki::open(dir.path(), &moved, now()).expect("an address less");
    assert!(third.renewed.is_empty(), "fewer addresses renew nothing");

    let later = now() + Duration::days(300);
    let fourth = Pki::open(dir.path(), &moved, later).expect("a start much later");
    assert_eq!(fourth.renewed, Role::ALL.map(|role| (role, Stale::Expiring)));
    assert_eq!(first.ca_pem, fourth.ca_pem);
    assert!(facts(&fourth, Role::Admin).not_after > later + Duration::days(300));
}

#[test]
fn a_pair_that_does_not_match_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    Pki::open(dir.path(), &names(), now()).expect("a first start");
    fs::copy(dir.path().join("admin.key"), dir.path().join("proxy.key")).expect("copied");
    fs::write(dir.path().join("scheduler.crt"), "torn").expect("written");
    let again = Pki::open(dir.path(), &names(), now()).expect("a second start");
    assert_eq!(again.renewed, [Role::Scheduler, Role::Proxy].map(|role| (role, Stale::Unreadable)));
}

#[test]
fn a_damaged_authority_is_refused_and_a_replaced_one_renews_its_leaves() {
    let dir = tempfile::tempdir().expect("a directory");
    Pki::open(dir.path(), &names(), now()).expect("a first start");
    fs::write(dir.path().join("ca.key"), "torn").expect("written");
    let error = Pki::open(dir.path(), &names(), now()).expect_err("the key is torn");
    assert!(error.to_string().contains("is damaged (the key cannot be read)"), "{error}");

    fs::remove_file(dir.path().join("ca.key")).expect("there");
    fs::remove_file(dir.path().join("ca.crt")).expect("there");
    let again = Pki::open(dir.path(), &names(), now()).expect("a new authority");
    assert_eq!(again.renewed.len(), Role::ALL.len() - 2, "all but the store's");
    assert!(again.renewed.iter().all(|(_, stale)| *stale == Stale::Authority));
}
