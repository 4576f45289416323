//! Options about certificates and ciphers.

use std::path::PathBuf;

use super::flags::Given;
use super::{ConfigError, Url, invalid};

/// TLS of all client and metrics places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// What the server shows.
    pub identity: Identity,
    /// Set: every client must show a certificate that this bundle vouches for.
    pub client_ca_file: Option<PathBuf>,
    /// The common name of that certificate says which user the client is.
    pub client_cert_auth: bool,
    /// Certificates that the bundle vouches for no longer.
    pub client_crl_file: Option<PathBuf>,
    /// Not empty: a client's certificate must be good for one of these names.
    pub client_names: Vec<String>,
    /// IANA numbers of the cipher suites that may be used; empty: all of rustls's.
    pub cipher_suites: Vec<u16>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// The newest.
    pub max_version: TlsVersion,
}

/// Certificate and key of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// PEM files, read again when they change.
    Files {
        /// The chain.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made at first start.
    SelfSigned {
        /// How long a new one is good for.
        years: u32,
        /// Names and addresses it is for.
        hosts: Vec<String>,
    },
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2, the oldest that may be spoken.
    V12,
    /// 1.3.
    V13,
}

impl TlsConfig {
    /// A server that shows these files (PEM) and asks clients for nothing.
    pub fn new(cert: PathBuf, key: PathBuf) -> Self {
        Self {
            identity: Identity::Files { cert, key },
            client_ca_file: None,
            client_cert_auth: false,
            client_crl_file: None,
            client_names: Vec::new(),
            cipher_suites: Vec::new(),
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
        }
    }
}

pub(super) fn tls(given: &Given, places: &[&Url]) -> Result<Option<TlsConfig>, ConfigError> {
    let (min_version, max_version) = versions(given)?;
    let suites = given.list("cipher-suites");
    let cipher_suites = suites.iter().map(|name| suite(name)).collect::<Result<Vec<_>, _>>()?;
    if min_version == TlsVersion::V13 && !cipher_suites.is_empty() {
        return Err(invalid("cipher suites cannot be configured when only TLS1.3 is enabled"));
    }
    let demand = given.switch("client-cert-auth");
    let ca = given.set("trusted-ca-file").map(PathBuf::from);
    let crl = given.set("client-crl-file").map(PathBuf::from);
    let names = given.list("client-cert-allowed-hostname");
    let Some(identity) = identity(given, places)? else { return Ok(None) };
    if demand && ca.is_none() {
        return Err(invalid("--client-cert-auth needs --trusted-ca-file"));
    }
    if ca.is_none() && (crl.is_some() || !names.is_empty()) {
        return Err(invalid(
            "--client-crl-file and --client-cert-allowed-hostname need --trusted-ca-file",
        ));
    }
    Ok(Some(TlsConfig {
        identity,
        client_ca_file: ca,
        client_cert_auth: demand,
        client_crl_file: crl,
        client_names: names,
        cipher_suites,
        min_version,
        max_version,
    }))
}

/// What the server shows; `None` when it was given nothing.
fn identity(given: &Given, places: &[&Url]) -> Result<Option<Identity>, ConfigError> {
    match (given.set("cert-file"), given.set("key-file")) {
        (Some(cert), Some(key)) => {
            return Ok(Some(Identity::Files { cert: cert.into(), key: key.into() }));
        }
        (None, None) => {}
        _ => {
            return Err(invalid(
                "--cert-file and --key-file must both be present or both be absent",
            ));
        }
    }
    if !given.switch("auto-tls") {
        return Ok(None);
    }
    let years = match given.number("self-signed-cert-validity")? {
        0 => {
            return Err(invalid(
                "--self-signed-cert-validity is 0: a certificate must be good for at least a year",
            ));
        }
        // Beyond it the date has no four-digit year any more.
        years if years > 1000 => {
            return Err(invalid("--self-signed-cert-validity is above 1000 years"));
        }
        years => years,
    };
    let mut hosts: Vec<String> =
        places.iter().filter_map(|url| url.host()).map(str::to_owned).collect();
    hosts.retain(|host| !host.is_empty());
    hosts.push("localhost".to_owned());
    hosts.sort();
    hosts.dedup();
    Ok(Some(Identity::SelfSigned { years, hosts }))
}

fn versions(given: &Given) -> Result<(TlsVersion, TlsVersion), ConfigError> {
    let parse = |flag: &str, unset: TlsVersion| match given.text(flag) {
        "" => Ok(unset),
        "TLS1.2" => Ok(TlsVersion::V12),
        "TLS1.3" => Ok(TlsVersion::V13),
        other => Err(invalid(format!(
            "unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"
        ))),
    };
    let min = parse("tls-min-version", TlsVersion::V12)?;
    let max = parse("tls-max-version", TlsVersion::V13)?;
    if min > max {
        return Err(invalid("min version (TLS1.3) is greater than max version (TLS1.2)"));
    }
    Ok((min, max))
}

/// Go's names of the suites that rustls speaks, with their IANA numbers.
const SUITES: &[(&str, u16)] = &[
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", 0xcca8),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", 0xcca9),
];

/// The number of a suite. Suites that Go has and rustls has not are the ones without forward
/// secrecy or authenticated encryption; they are refused by name.
fn suite(name: &str) -> Result<u16, ConfigError> {
    if let Some((_, number)) = SUITES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let weak = name.starts_with("TLS_RSA_WITH_")
        || (name.starts_with("TLS_ECDHE_") && (name.contains("_CBC_") || name.contains("_RC4_")));
    Err(match weak {
        true => invalid(format!("TLS cipher suite {name:?} is weak and not offered")),
        false => invalid(format!("unexpected TLS cipher suite {name:?}")),
    })
}
