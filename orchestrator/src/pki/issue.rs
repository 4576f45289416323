//! What each certificate says, and whether one on disk still says it. No files, no clock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::{Names, Role};

/// An authority outlives any reasonable installation: replacing it means touching every client.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Short enough that a leaked key ages out, long enough that a process started now outlives it only
/// if nobody updates it for a year.
const LEAF_LIFE: Duration = Duration::days(365);
/// Renewal happens at start, so it looks this far ahead.
const RENEW_BEFORE: Duration = Duration::days(120);
/// Hosts whose clocks run behind still accept a fresh certificate.
const CLOCK_SLACK: Duration = Duration::hours(1);

/// Which authority signs a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    Cluster,
    Store,
}

pub(super) fn domain(role: Role) -> Domain {
    match role {
        Role::StoreServer | Role::StoreClient => Domain::Store,
        Role::Apiserver
        | Role::ApiserverKubeletClient
        | Role::Admin
        | Role::Scheduler
        | Role::ControllerManager
        | Role::Kubelet
        | Role::KubeletServer
        | Role::Proxy => Domain::Cluster,
    }
}

/// What a leaf certificate must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) common_name: String,
    pub(super) organisation: Option<&'static str>,
    pub(super) usage: Usage,
    pub(super) dns: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Server,
    Client,
}

/// Why a certificate is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// There is none yet.
    Missing,
    /// The files cannot be read as a certificate with its key.
    Unreadable,
    /// It ends soon, or has ended.
    Expiring,
    /// It lacks a name or address it is now needed for, or speaks for somebody else.
    Names,
    /// Another authority signed it.
    Authority,
}

/// The certificate each role needs on a host with these names.
pub(super) fn spec(role: Role, names: &Names) -> Spec {
    let node_user = format!("system:node:{}", names.node);
    match role {
        Role::Apiserver => server("kube-apiserver", api_names(names), api_addresses(names)),
        Role::ApiserverKubeletClient => {
            client("kube-apiserver-kubelet-client", Some("system:masters"))
        }
        Role::Admin => client("kubernetes-admin", Some("system:masters")),
        Role::Scheduler => client("system:kube-scheduler", None),
        Role::ControllerManager => client("system:kube-controller-manager", None),
        Role::Kubelet => client(&node_user, Some("system:nodes")),
        Role::KubeletServer => Spec {
            organisation: Some("system:nodes"),
            ..server(&node_user, host_names(names), host_addresses(names))
        },
        Role::Proxy => client("system:kube-proxy", None),
        Role::StoreServer => server("store", host_names(names), host_addresses(names)),
        Role::StoreClient => client("root", None),
    }
}

fn client(common_name: &str, organisation: Option<&'static str>) -> Spec {
    Spec {
        common_name: common_name.to_owned(),
        organisation,
        usage: Usage::Client,
        dns: Vec::new(),
        addresses: Vec::new(),
    }
}

fn server(common_name: &str, dns: Vec<String>, addresses: Vec<IpAddr>) -> Spec {
    let common_name = common_name.to_owned();
    Spec { common_name, organisation: None, usage: Usage::Server, dns, addresses }
}

fn host_names(names: &Names) -> Vec<String> {
    sorted(["localhost", &names.host, &names.node].map(str::to_owned).to_vec())
}

fn api_names(names: &Names) -> Vec<String> {
    let inside = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    sorted(host_names(names).into_iter().chain(inside.map(str::to_owned)).collect())
}

fn host_addresses(names: &Names) -> Vec<IpAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    sorted(names.addresses.iter().copied().chain(loopback).collect())
}

fn api_addresses(names: &Names) -> Vec<IpAddr> {
    sorted(host_addresses(names).into_iter().chain([names.api_service]).collect())
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list.dedup();
    list
}

/// Whether the pair on disk has to be made again, and why. More names than needed do no harm: an
/// address that comes and goes must not renew the certificate at every start.
pub(super) fn stale(
    held: &(Option<String>, Option<String>),
    spec: &Spec,
    authority: &Authority,
    now: OffsetDateTime,
) -> Option<Stale> {
    let (Some(cert), Some(key)) = held else { return Some(Stale::Missing) };
    let Some(facts) = Facts::read(cert) else { return Some(Stale::Unreadable) };
    match KeyPair::from_pem(key) {
        Ok(key) if key.subject_public_key_info() == facts.public_key => {}
        _ => return Some(Stale::Unreadable),
    }
    if facts.authority_key.as_ref() != Some(&authority.key_id) {
        return Some(Stale::Authority);
    }
    if facts.not_after - now < RENEW_BEFORE || facts.not_before > now {
        return Some(Stale::Expiring);
    }
    let named = facts.common_name == spec.common_name
        && facts.organisation.as_deref() == spec.organisation
        && spec.dns.iter().all(|name| facts.dns.contains(name))
        && spec.addresses.iter().all(|address| facts.addresses.contains(address));
    (!named).then_some(Stale::Names)
}

/// Makes a certificate and its key, both as PEM text.
pub(super) fn leaf(
    spec: &Spec,
    authority: &Authority,
    now: OffsetDateTime,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organisation) = spec.organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    params.distinguished_name.push(DnType::CommonName, spec.common_name.as_str());
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + LEAF_LIFE;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match spec.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    for name in &spec.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(spec.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    let key = KeyPair::generate()?;
    let issuer = Issuer::from_params(&authority.params, &authority.key);
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

/// An authority with its key: signs the leaves of its domain.
pub(super) struct Authority {
    pub(super) cert_pem: String,
    params: CertificateParams,
    key: KeyPair,
    key_id: Vec<u8>,
}

impl Authority {
    /// A new authority, and its key as PEM text.
    pub(super) fn generate(
        name: &str,
        now: OffsetDateTime,
    ) -> Result<(Self, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = authority_params(name);
        params.not_before = now - CLOCK_SLACK;
        params.not_after = now + AUTHORITY_LIFE;
        let cert_pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        let key_id = params.key_identifier(&key);
        Ok((Self { cert_pem, params, key, key_id }, key_pem))
    }

    /// Reads an authority back; the text says what is wrong with it.
    pub(super) fn parse(name: &str, cert_pem: String, key_pem: &str) -> Result<Self, String> {
        let facts = Facts::read(&cert_pem).ok_or("the certificate cannot be read")?;
        let key = KeyPair::from_pem(key_pem).map_err(|_| "the key cannot be read")?;
        if key.subject_public_key_info() != facts.public_key {
            return Err("certificate and key do not belong together".into());
        }
        let params = authority_params(name);
        if facts.common_name != authority_name(name) {
            return Err(format!(
                "it is named {:?}, not {:?}",
                facts.common_name,
                authority_name(name)
            ));
        }
        let key_id = params.key_identifier(&key);
        Ok(Self { cert_pem, params, key, key_id })
    }
}

fn authority_name(name: &str) -> String {
    format!("orchestrator-{name}")
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, authority_name(name));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// What a certificate on disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) common_name: String,
    pub(super) organisation: Option<String>,
    pub(super) dns: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) authority_key: Option<Vec<u8>>,
    pub(super) public_key: Vec<u8>,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    pub(super) fn read(pem: &str) -> Option<Self> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let (_, cert) = X509Certificate::from_der(&block.contents).ok()?;
        let mut facts = Self {
            common_name: first_text(cert.subject().iter_common_name())?,
            organisation: first_text(cert.subject().iter_organization()),
            dns: Vec::new(),
            addresses: Vec::new(),
            not_before: cert.validity().not_before.to_datetime(),
            not_after: cert.validity().not_after.to_datetime(),
            authority_key: None,
            public_key: cert.public_key().raw.to_vec(),
        };
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    names.general_names.iter().for_each(|name| facts.add_name(name));
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        Some(facts)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                self.addresses.extend(v4.or(v6).ok());
            }
            _ => {}
        }
    }
}

fn first_text<'a>(
    mut attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<String> {
    attributes.next().and_then(|attribute| attribute.as_str().ok()).map(str::to_owned)
}
