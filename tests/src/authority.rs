//! Certificates for the tests of TLS: an authority, and pairs of files that it signs.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

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
