//! Certificates for the tests of TLS: an authority, and pairs of files that it signs.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// An authority that writes pairs of files.
pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// A fresh one; its certificate is written to `ca`.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn new(ca: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, ca.display().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a CA");
        write(ca, &certificate.pem());
        Self(Issuer::new(params, key))
    }

    /// Writes `<path>.pem` and `<path>.key`, for 127.0.0.1 and "somebody" unless `change` changes it.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn sign(&self, path: &Path, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "somebody");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        write(&path.with_extension("pem"), &certificate.pem());
        write(&path.with_extension("key"), &key.serialize_pem());
    }

    /// Writes a list that takes back the certificate with this serial number.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn revoke(&self, list: &Path, serial: u64) {
        let long_ago = date_time_ymd(2024, 1, 1);
        let entry = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![entry],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.0).expect("a list");
        write(list, &signed.pem().expect("PEM"));
    }

    /// [`Authority::sign`], for a client of this name.
    pub fn sign_named(&self, path: &Path, name: &str) {
        self.sign(path, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        });
    }

    /// [`Authority::sign`], for a server that clients of its gateway may meet: one without a name.
    pub fn sign_nameless(&self, path: &Path) {
        self.sign(path, |params| params.distinguished_name = rcgen::DistinguishedName::new());
    }
}

/// A new file in the place of the old, as renewals do it.
fn write(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).expect("it can be written");
    std::fs::rename(&fresh, path).expect("it can be renamed");
}
