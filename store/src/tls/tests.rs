//! Handshakes in memory: who is let in, and what happens when files change under a running server.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::*;

/// An authority that signs whatever a test needs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A client's chain and key.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a CA");
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    fn sign(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, format!("user of {host}"));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn client(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        use rustls::pki_types::pem::PemObject;
        let (certificate, key) = self.sign(host, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        });
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        (chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"))
    }

    fn revoke(&self, serials: &[u64]) -> String {
        let now = time::OffsetDateTime::now_utc();
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

/// A server with files, and the authority of both sides.
struct Bench {
    dir: TempDir,
    authority: Authority,
    config: TlsConfig,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let authority = Authority::new("main");
        let mut config = TlsConfig::new(dir.path().join("cert"), dir.path().join("key"));
        config.client_ca_file = Some(dir.path().join("ca"));
        let bench = Self { dir, authority, config };
        bench.write("ca", &bench.authority.pem);
        bench.renew(&bench.authority.sign("localhost", |_| ()));
        bench
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        // A new file each time, as renewals make it.
        let path = self.dir.path().join(name);
        let fresh = self.dir.path().join(format!("{name}.new"));
        std::fs::write(&fresh, text).expect("it can be written");
        std::fs::rename(&fresh, &path).expect("it can be renamed");
        path
    }

    fn renew(&self, (certificate, key): &(String, String)) {
        self.write("cert", certificate);
        self.write("key", key);
    }

    fn tls(&self) -> Tls {
        Tls::load(&self.config, None).expect("the files are sound")
    }
}

/// A client that trusts `ca` and shows `shown`.
fn client(ca: &CertificateDer<'static>, shown: Option<Shown>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a pair"),
        None => builder.with_no_client_auth(),
    }
}

/// Shakes hands in memory; what the server says of the client, or why either side refuses.
fn shake(tls: &Tls, client: ClientConfig) -> Result<Option<PeerCertificate>, Error> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let mut server = ServerConnection::new(tls.current()).expect("a server");
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory takes everything");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory gives everything");
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory takes everything");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory gives everything");
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking(), "ten rounds are enough for any handshake");
    Ok(server.peer_certificates().and_then(PeerCertificate::new))
}

use rustls::{CertificateError, Error};

fn refused(tls: &Tls, client: ClientConfig) -> CertificateError {
    match shake(tls, client) {
        Err(Error::InvalidCertificate(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_of_the_authority_is_let_in_and_known_by_name() {
    let bench = Bench::new();
    let tls = bench.tls();
    let shown = bench.authority.client("one", |_| ());
    let peer = shake(&tls, client(&bench.authority.der, Some(shown))).expect("let in");
    assert_eq!(peer.expect("a certificate").common_name(), Some("user of one"));
    let nameless = bench.authority.client("one", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let peer = shake(&tls, client(&bench.authority.der, Some(nameless))).expect("let in");
    assert_eq!(peer.expect("a certificate").common_name(), None);
}

#[test]
fn a_self_signed_certificate_in_the_bundle_lets_its_owner_in() {
    let own = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let certificate = params.self_signed(&key).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (certificate.pem(), (vec![certificate.der().clone()], key))
    };
    let bench = Bench::new();
    let (pem, shown) = own(|_| ());
    bench.write("ca", &pem);
    let peer = shake(&bench.tls(), client(&bench.authority.der, Some(shown))).expect("let in");
    assert_eq!(peer.expect("a certificate").common_name(), Some("root"));
    let (_, stranger) = own(|_| ());
    refused(&bench.tls(), client(&bench.authority.der, Some(stranger)));

    let (pem, expired) = own(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 2));
    bench.write("ca", &pem);
    refused(&bench.tls(), client(&bench.authority.der, Some(expired)));
    let (pem, server) = own(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    bench.write("ca", &pem);
    refused(&bench.tls(), client(&bench.authority.der, Some(server)));
}

#[test]
fn clients_that_are_not_let_in() {
    let mut bench = Bench::new();
    bench.config.client_crl_file = Some(bench.write("crl", &bench.authority.revoke(&[7])));
    let tls = bench.tls();
    let ca = bench.authority.der.clone();
    let case = |shown: Shown| refused(&tls, client(&ca, Some(shown)));
    let authority = &bench.authority;

    assert!(matches!(shake(&tls, client(&ca, None)), Err(Error::NoCertificatesPresented)));
    let stranger = Authority::new("stranger").client("one", |_| ());
    assert_eq!(case(stranger), CertificateError::UnknownIssuer);
    let expired = authority.client("one", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    });
    assert!(matches!(case(expired), CertificateError::ExpiredContext { .. }));
    let server = authority.client("one", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(matches!(case(server), CertificateError::InvalidPurposeContext { .. }));
    let revoked = authority.client("one", |params| params.serial_number = Some(7u64.into()));
    assert_eq!(case(revoked), CertificateError::Revoked);
    // The number of another authority's certificate means nothing.
    let other = authority.client("one", |params| params.serial_number = Some(8u64.into()));
    shake(&tls, client(&ca, Some(other))).expect("not revoked");
}

#[test]
fn listed_names_only() {
    let mut bench = Bench::new();
    bench.config.client_names = vec!["one".to_owned(), "10.0.0.1".to_owned()];
    let tls = bench.tls();
    let ca = bench.authority.der.clone();
    for host in ["one", "10.0.0.1"] {
        shake(&tls, client(&ca, Some(bench.authority.client(host, |_| ())))).expect(host);
    }
    let shown = bench.authority.client("two", |_| ());
    assert_eq!(refused(&tls, client(&ca, Some(shown))), CertificateError::NotValidForName);
}

#[test]
fn files_that_change_count_from_the_next_handshake_on() {
    let mut bench = Bench::new();
    bench.config.client_crl_file = Some(bench.write("crl", &bench.authority.revoke(&[])));
    let tls = bench.tls();
    let first = bench.authority.der.clone();
    let shown = || bench.authority.client("one", |params| params.serial_number = Some(7u64.into()));
    shake(&tls, client(&first, Some(shown()))).expect("at first");

    // Nothing changed: nothing is read.
    assert!(Arc::ptr_eq(&tls.current(), &tls.current()));

    // Half a renewal: the old pair goes on.
    let renewed = Authority::new("renewed");
    let pair = renewed.sign("localhost", |_| ());
    bench.write("cert", &pair.0);
    shake(&tls, client(&first, Some(shown()))).expect("with the old pair");
    bench.write("key", &pair.1);
    shake(&tls, client(&first, Some(shown()))).expect_err("the new pair is another authority's");
    shake(&tls, client(&renewed.der, Some(shown()))).expect("with the new pair");

    // The list, then the bundle.
    bench.write("crl", &bench.authority.revoke(&[7]));
    assert_eq!(refused(&tls, client(&renewed.der, Some(shown()))), CertificateError::Revoked);
    bench.write("ca", &renewed.pem);
    bench.write("crl", &renewed.revoke(&[]));
    let old = refused(&tls, client(&renewed.der, Some(shown())));
    assert_eq!(old, CertificateError::UnknownIssuer);
    let new = renewed.client("one", |_| ());
    shake(&tls, client(&renewed.der, Some(new))).expect("of the new authority");

    // Rubbish changes nothing.
    bench.write("ca", "rubbish");
    let new = renewed.client("one", |_| ());
    shake(&tls, client(&renewed.der, Some(new))).expect("as before");
}

#[test]
fn versions_and_suites_are_those_chosen() {
    let spoken = |change: &dyn Fn(&mut TlsConfig)| {
        let mut bench = Bench::new();
        bench.config.client_ca_file = None;
        change(&mut bench.config);
        let tls = bench.tls();
        let name = ServerName::try_from("localhost").expect("a name");
        let config = client(&bench.authority.der, None);
        shake(&tls, config.clone()).expect("some version fits");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut server = ServerConnection::new(tls.current()).expect("a server");
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory takes everything");
        server.read_tls(&mut wire.as_slice()).expect("memory gives everything");
        server.process_new_packets().expect("a hello");
        let suite = server.negotiated_cipher_suite().expect("chosen with the hello");
        (server.protocol_version().expect("chosen with the hello"), u16::from(suite.suite()))
    };
    use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
    assert_eq!(spoken(&|_| ()).0, TLSv1_3);
    assert_eq!(spoken(&|config| config.max_version = TlsVersion::V12).0, TLSv1_2);
    let one = |config: &mut TlsConfig| {
        config.cipher_suites = vec![0xcca9];
        config.max_version = TlsVersion::V12;
    };
    assert_eq!(spoken(&one), (TLSv1_2, 0xcca9));
    assert_eq!(spoken(&|config| config.cipher_suites = vec![0x1303]), (TLSv1_3, 0x1303));
    // Choosing among the older leaves the newer version.
    assert_eq!(spoken(&|config| config.cipher_suites = vec![0xcca9]).0, TLSv1_3);
}

#[test]
fn a_certificate_is_made_once_and_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = dir.path().join("fixtures/client");
    let mut config = TlsConfig::new(PathBuf::new(), PathBuf::new());
    config.identity = Identity::SelfSigned {
        years: 2,
        hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    let tls = Tls::load(&config, Some(&folder)).expect("made");
    let first = std::fs::read(folder.join("cert.pem")).expect("a file");
    let ca = read::certificates(&folder.join("cert.pem")).expect("PEM").remove(0);
    shake(&tls, client(&ca, None)).expect("a client that trusts this very certificate");
    Tls::load(&config, Some(&folder)).expect("found");
    assert_eq!(std::fs::read(folder.join("cert.pem")).expect("a file"), first);
    Tls::load(&config, None).expect("made in memory");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(folder.join("key.pem")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let mut bench = Bench::new();
    for (name, text, part) in [
        ("cert", "rubbish", "cert: holds no certificate"),
        ("key", "rubbish", "key: "),
        ("ca", "rubbish", "ca: holds no certificate"),
        ("crl", "rubbish", "crl: is no certificate revocation list"),
    ] {
        bench.config.client_crl_file = Some(bench.write("crl", &bench.authority.revoke(&[])));
        let path = bench.dir.path().join(name);
        let sound = std::fs::read_to_string(&path).expect("it is there");
        bench.write(name, text);
        let Err(error) = Tls::load(&bench.config, None) else { panic!("{name} was taken") };
        assert!(error.to_string().contains(part), "{name}: {error}");
        bench.write(name, &sound);
    }
    bench.config.client_names = vec!["no host".to_owned()];
    let Err(error) = Tls::load(&bench.config, None) else { panic!("a bad name was taken") };
    assert!(error.to_string().contains("\"no host\" is no host name"), "{error}");
}
