//! `--auto-tls`: a certificate for those who want the wire encrypted and have no authority. Clients
//! cannot verify it against anything, so this keeps listeners out and impostors not.
//!
//! It is made once, in `<data-dir>/fixtures/client` as etcd does, and used until it is removed; a
//! volatile store makes one that is never written.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::{Pair, TlsError, unfit};

const DAYS_PER_YEAR: i64 = 365;

/// A pair that no file holds.
pub(super) fn in_memory(years: u32, hosts: &[String]) -> Result<Pair, TlsError> {
    let path = Path::new("--auto-tls");
    let (certificate, key) = make(path, years, hosts)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    Ok(Pair { chain: vec![certificate.der().clone()], key })
}

/// The certificate and key files of a folder, which are made if they are not there.
pub(super) fn in_folder(
    folder: &Path,
    years: u32,
    hosts: &[String],
) -> Result<(PathBuf, PathBuf), TlsError> {
    let files = (folder.join("cert.pem"), folder.join("key.pem"));
    if files.0.exists() && files.1.exists() {
        return Ok(files);
    }
    let (certificate, key) = make(folder, years, hosts)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| unfit(folder, error))?;
    // The key last: both are there only when both are whole.
    write(&files.0, certificate.pem().as_bytes())?;
    write(&files.1, key.serialize_pem().as_bytes())?;
    tracing::info!(path = %files.0.display(), "made a certificate");
    Ok(files)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| unfit(path, error))
}

fn make(
    path: &Path,
    years: u32,
    hosts: &[String],
) -> Result<(rcgen::Certificate, KeyPair), TlsError> {
    let fail = |error: rcgen::Error| unfit(path, error);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(fail)?;
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(fail)?;
    // No common name: it would be somebody's user.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "store");
    params.not_before = time::OffsetDateTime::now_utc();
    params.not_after = params.not_before + time::Duration::days(DAYS_PER_YEAR * i64::from(years));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((certificate, key))
}
