//! Certificate files: reading them, and seeing that they have changed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{TlsError, unfit};

/// What a file was when it was read. Renewals write a new file or turn a link to another; both
/// change at least one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, u64, i64, i64)>);

/// The stamps of some files; one that is missing has a stamp too.
pub(super) fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()))
    };
    files.iter().map(|file| Stamp(stamp(file))).collect()
}

/// All certificates of a PEM file, of which there must be one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(pem)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem)?;
    if chain.is_empty() {
        return Err(unfit(path, "holds no certificate"));
    }
    Ok(chain)
}

/// The key of a PEM file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

/// Revoked certificates: issuer and serial number, both as DER writes them.
pub(super) type Revoked = BTreeSet<(Vec<u8>, Vec<u8>)>;

/// All revocation lists of a file, PEM or DER. Lists of either version are taken, signed by
/// whomever: the operator vouches for the file as for the CA bundle beside it.
pub(super) fn revoked(path: &Path) -> Result<Revoked, TlsError> {
    let bytes = std::fs::read(path).map_err(|error| unfit(path, error))?;
    let is_pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    let lists: Vec<Vec<u8>> = if is_pem {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .map(|list| list.map(|list| list.as_ref().to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?
    } else {
        vec![bytes]
    };
    if lists.is_empty() {
        return Err(unfit(path, "holds no certificate revocation list"));
    }
    let mut revoked = Revoked::new();
    for list in lists {
        let (_, list) = CertificateRevocationList::from_der(&list)
            .map_err(|error| unfit(path, format!("is no certificate revocation list: {error}")))?;
        let issuer = list.issuer().as_raw();
        for entry in list.iter_revoked_certificates() {
            revoked.insert((issuer.to_vec(), entry.raw_serial().to_vec()));
        }
    }
    Ok(revoked)
}
