//! The client port: gRPC and plain HTTP beside each other, TLS with client certificates, and
//! nonsense that must not disturb anyone.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::*;
use store::config::TlsConfig;
use store::config::urls::Url;

/// Sends bytes and reads until the server closes or has nothing more to say.
async fn exchange(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

#[tokio::test]
async fn http_is_served_beside_grpc() {
    let world = World::start_with(|config| {
        let url = |text| Url::parse(text).expect("a URL");
        config.listen.client_urls = vec![url("http://127.0.0.1:0")];
        config.listen.metrics_urls = vec![url("http://127.0.0.1:0")];
    })
    .await;
    world.put("a", "1").await;
    let [client, metrics] = world.node.addresses() else { panic!("two listeners") };
    for address in [client, metrics] {
        assert!(get(*address, "/health").await.ends_with("{\"health\":\"true\",\"reason\":\"\"}"));
        assert!(get(*address, "/livez").await.ends_with("ok\n"));
        assert!(get(*address, "/readyz?verbose").await.contains("[+]linearizable_read ok"));
        assert!(get(*address, "/readyz/non_learner").await.ends_with("ok\n"));
        let counted = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
                       grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
        assert!(get(*address, "/metrics").await.contains(counted));
    }
    assert!(get(*client, "/version").await.contains("\"etcdserver\":\"3.7.3\""));
    assert!(get(*metrics, "/version").await.starts_with("HTTP/1.1 404"));
    assert!(get(*client, "/nowhere").await.starts_with("HTTP/1.1 404"));
    assert!(get(*client, "/v3/kv/range").await.starts_with("HTTP/1.1 501"));
    let post = "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(exchange(*client, post.as_bytes()).await.starts_with("HTTP/1.1 405"));
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\r\n\r\n",
    ] {
        exchange(*client, nonsense).await;
    }
    world.put("a", "2").await;
    world.stop().await;
}

/// A CA with one certificate for the server and one for a client.
struct Authority {
    ca: String,
    client: Identity,
    files: TlsConfig,
}

fn authority(dir: &Path) -> Authority {
    let key = || rcgen::KeyPair::generate().expect("a key");
    let ca_key = key();
    let mut ca_params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = ca_params.self_signed(&ca_key).expect("a CA").pem();
    let issuer = rcgen::Issuer::new(ca_params, ca_key);
    let issue = |name: &str| {
        let key = key();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
    };
    let (server, server_key) = issue("localhost");
    let (client, client_key) = issue("client");
    let mut files = TlsConfig::new(dir.join("server.pem"), dir.join("server.key"));
    files.client_ca_file = Some(dir.join("ca.pem"));
    std::fs::write(dir.join("server.pem"), server).expect("written");
    std::fs::write(dir.join("server.key"), server_key).expect("written");
    std::fs::write(dir.join("ca.pem"), &ca).expect("written");
    Authority { ca, client: Identity::from_pem(client, client_key), files }
}

#[tokio::test]
async fn a_tls_listener_admits_certificates_of_its_authority() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let authority = authority(dir.path());
    let world = World::start_with(|config| {
        config.listen.tls = Some(authority.files.clone());
        let urls = ["http://127.0.0.1:0", "https://127.0.0.1:0"];
        config.listen.client_urls = urls.map(|url| Url::parse(url).expect("a URL")).into();
    })
    .await;
    let [plain, secure] = world.node.addresses() else { panic!("two listeners") };
    let ask = |url: String, tls: Option<ClientTlsConfig>| async move {
        let mut endpoint = Endpoint::from_shared(url).expect("a URL");
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls).expect("TLS");
        }
        let channel =
            endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        pb::kv_client::KvClient::new(channel).range(range("a", "")).await
    };
    let tls = || {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority.ca))
            .domain_name("localhost")
    };
    let secure_url = format!("https://localhost:{}", secure.port());
    ask(format!("http://{plain}"), None).await.expect("the plain one");
    ask(secure_url.clone(), Some(tls().identity(authority.client.clone())))
        .await
        .expect("a client");
    ask(secure_url.clone(), Some(tls())).await.expect_err("without a certificate");
    ask(format!("http://{secure}"), None).await.expect_err("plain text on the TLS port");
    world.stop().await;
}
