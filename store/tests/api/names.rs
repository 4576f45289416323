//! Certificates that say who a client is: only where they were demanded for that, only on the very
//! connection, and never against a token.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tonic::Request;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::access::{ALICE, Guarded, MALLORY, cheap, with_token};
use super::*;
use store::config::TlsConfig;
use store::config::urls::Url;

/// Makes certificates that the server trusts.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, common_name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Files of a server that demands certificates; whether their names count is the question.
    fn server(&self, dir: &Path, names_count: bool) -> TlsConfig {
        let (certificate, key) = self.issue("server");
        for (name, content) in
            [("cert.pem", &certificate), ("key.pem", &key), ("ca.pem", &self.pem)]
        {
            std::fs::write(dir.join(name), content).expect("written");
        }
        let mut files = TlsConfig::new(dir.join("cert.pem"), dir.join("key.pem"));
        files.client_ca_file = Some(dir.join("ca.pem"));
        files.client_cert_auth = names_count;
        files
    }

    async fn connect(&self, world: &World, common_name: &str) -> Channel {
        let (certificate, key) = self.issue(common_name);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.pem))
            .identity(Identity::from_pem(certificate, key))
            .domain_name("localhost");
        let port = world.node.addresses()[0].port();
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).expect("a URL");
        endpoint.tls_config(tls).expect("TLS").connect().await.expect("connected")
    }
}

async fn guarded(authority: &Authority, dir: &Path, names_count: bool) -> Guarded {
    let files = authority.server(dir, names_count);
    Guarded::start_with(|config| {
        cheap(config);
        config.listen.tls = Some(files);
        config.listen.client_urls = vec![Url::parse("https://127.0.0.1:0").expect("a URL")];
    })
    .await
}

async fn ask(channel: &Channel, request: Request<pb::RangeRequest>) -> Result<(), Status> {
    pb::kv_client::KvClient::new(channel.clone()).range(request).await.map(drop)
}

#[tokio::test]
async fn a_common_name_is_a_user() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let authority = Authority::new();
    let guarded = guarded(&authority, dir.path(), true).await;
    let denied = says(Code::PermissionDenied, "permission denied");
    let (alice, nobody) = (
        authority.connect(&guarded.world, ALICE).await,
        authority.connect(&guarded.world, "nobody-of-this-name").await,
    );
    ask(&alice, Request::new(range("k", ""))).await.expect("alice may");
    assert_eq!(refused(ask(&alice, Request::new(range("secret", ""))).await), denied);
    assert_eq!(refused(ask(&nobody, Request::new(range("k", ""))).await), denied);
    // A token says more than the certificate, and a bad one is not made good by it.
    let mallory = with_token(guarded.token(MALLORY), range("k", ""));
    assert_eq!(refused(ask(&alice, mallory).await), denied);
    let bad = ask(&alice, with_token("x", range("k", ""))).await;
    assert_eq!(refused(bad), says(Code::Unauthenticated, "invalid auth token"));
    // A gateway shows its own certificate and speaks for somebody else.
    let mut relayed = Request::new(range("k", ""));
    relayed.metadata_mut().insert("grpcgateway-accept", "*/*".parse().expect("plain text"));
    let nobody = says(Code::InvalidArgument, "user name is empty");
    assert_eq!(refused(ask(&alice, relayed).await), nobody);
    // Without a certificate of its own a connection has no name, whatever it says.
    assert_eq!(refused(ask(&guarded.world.channel, Request::new(range("k", ""))).await), nobody);
    drop(alice);
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_name_that_was_not_asked_for_counts_for_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let authority = Authority::new();
    let guarded = guarded(&authority, dir.path(), false).await;
    let alice = authority.connect(&guarded.world, ALICE).await;
    let answer = ask(&alice, Request::new(range("k", ""))).await;
    assert_eq!(refused(answer), says(Code::InvalidArgument, "user name is empty"));
    drop(alice);
    guarded.world.stop().await;
}
