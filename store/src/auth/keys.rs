//! Keys for signed tokens, and signing with them.
//!
//! `jsonwebtoken` knows the form of a token and leaves cryptography to a provider; ours is `ring`,
//! which TLS uses too, so that there is one implementation of each algorithm in the process. Keys
//! come as PEM in the forms that Go reads: PKCS#1, PKCS#8 and SEC 1 private keys; public keys, and
//! certificates that hold one. HMAC keys are the bytes of the file.
//!
//! A member that has the private key knows the public one too; with the public key alone it checks
//! tokens and makes none.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
// The nonce of a signature must not be drawn where a seed could draw it again.
use ring::{hmac, rand as system, signature as ring_signature};
use ring_signature::{
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use signature::{Signer, Verifier};
use x509_parser::prelude::FromDer as _;
use x509_parser::{certificate::X509Certificate, x509::SubjectPublicKeyInfo};

/// What is wrong with keys; never what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("a key is needed: priv-key, or pub-key to check tokens only")]
    Missing,
    #[error("priv-key holds no private key that fits the sign-method")]
    Private,
    #[error("pub-key holds no public key that fits the sign-method")]
    Public,
    #[error("pub-key and priv-key do not belong together")]
    Mismatch,
}

/// The keys of a member.
pub(super) struct Keys {
    /// Makes tokens; without it the member can only check them.
    pub(super) sign: Option<EncodingKey>,
    pub(super) verify: DecodingKey,
}

impl Keys {
    /// From the contents of the key files.
    pub(super) fn new(
        algorithm: Algorithm,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
    ) -> Result<Self, KeyError> {
        // Refused where there is one already: in a program that embeds several stores.
        let _ = PROVIDER.install_default();
        if algorithm.family() == AlgorithmFamily::Hmac {
            let secret = private.filter(|secret| !secret.is_empty()).ok_or(KeyError::Missing)?;
            let sign = Some(EncodingKey::from_secret(secret));
            return Ok(Self { sign, verify: DecodingKey::from_secret(secret) });
        }
        let pair = private.map(|pem| Pair::read(algorithm, pem)).transpose()?;
        let public = public.map(|pem| public_key(pem).ok_or(KeyError::Public)).transpose()?;
        let (sign, public) = match (pair, public) {
            (None, None) => return Err(KeyError::Missing),
            (None, Some(public)) => (None, public),
            (Some(pair), None) => (Some(pair.sign), pair.public),
            (Some(pair), Some(public)) if pair.public == public => (Some(pair.sign), public),
            (Some(_), Some(_)) => return Err(KeyError::Mismatch),
        };
        let keys = Self { sign, verify: decoding(algorithm.family(), &public) };
        keys.try_out(algorithm, &public)?;
        Ok(keys)
    }

    /// A key of the wrong kind or size must be told at the start, not at the first login.
    fn try_out(&self, algorithm: Algorithm, public: &[u8]) -> Result<(), KeyError> {
        let fits = match algorithm {
            Algorithm::ES256 => public.len() == 65,
            Algorithm::ES384 => public.len() == 97,
            Algorithm::EdDSA => public.len() == 32,
            // A sequence of modulus and exponent; ring takes moduli of 2048 bits and more.
            _ => public.first() == Some(&0x30) && public.len() >= 256,
        };
        if !fits {
            return Err(if self.sign.is_some() { KeyError::Private } else { KeyError::Public });
        }
        let Some(sign) = &self.sign else { return Ok(()) };
        let signed = signer(&algorithm, sign).and_then(|key| Ok(key.try_sign(b"probe")?));
        let probe = signed.map_err(|_| KeyError::Private)?;
        let key = verifier(&algorithm, &self.verify).map_err(|_| KeyError::Public)?;
        key.verify(b"probe", &probe).map_err(|_| KeyError::Mismatch)
    }
}

fn decoding(family: AlgorithmFamily, public: &[u8]) -> DecodingKey {
    match family {
        AlgorithmFamily::Hmac => DecodingKey::from_secret(public),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_der(public),
        AlgorithmFamily::Ec => DecodingKey::from_ec_der(public),
        AlgorithmFamily::Ed => DecodingKey::from_ed_der(public),
    }
}

/// A private key, and the public one that belongs to it, in the forms that `ring` takes.
struct Pair {
    sign: EncodingKey,
    public: Vec<u8>,
}

impl Pair {
    fn read(algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Private)?;
        Self::of(algorithm, &key).ok_or(KeyError::Private)
    }

    fn of(algorithm: Algorithm, key: &PrivateKeyDer<'_>) -> Option<Self> {
        match (algorithm.family(), key) {
            (AlgorithmFamily::Rsa, key) => {
                let der = key.secret_der();
                let pair = rsa_pair(der)?;
                let public = pair.public_key().as_ref().to_vec();
                Some(Self { sign: EncodingKey::from_rsa_der(der), public })
            }
            (AlgorithmFamily::Ec, key) => {
                let curve = curve(algorithm)?;
                let der = match key {
                    PrivateKeyDer::Sec1(key) => pkcs8(curve.oid, key.secret_sec1_der()),
                    key => key.secret_der().to_vec(),
                };
                let entropy = system::SystemRandom::new();
                let pair = EcdsaKeyPair::from_pkcs8(curve.sign, &der, &entropy).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                Some(Self { sign: EncodingKey::from_ec_der(&der), public })
            }
            (AlgorithmFamily::Ed, PrivateKeyDer::Pkcs8(key)) => {
                let der = key.secret_pkcs8_der();
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                Some(Self { sign: EncodingKey::from_ed_der(der), public })
            }
            _ => None,
        }
    }
}

/// PKCS#8 or PKCS#1, whichever it is.
fn rsa_pair(der: &[u8]) -> Option<RsaKeyPair> {
    RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok()
}

/// The key inside a PEM of a public key or of a certificate.
fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem).ok()?;
    match kind {
        SectionKind::PublicKey => {
            let (_, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
            Some(info.subject_public_key.data.to_vec())
        }
        SectionKind::Certificate => {
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            Some(certificate.public_key().subject_public_key.data.to_vec())
        }
        _ => None,
    }
}

struct Curve {
    /// The curve's object identifier, as DER.
    oid: &'static [u8],
    sign: &'static EcdsaSigningAlgorithm,
}

fn curve(algorithm: Algorithm) -> Option<Curve> {
    match algorithm {
        Algorithm::ES256 => Some(Curve {
            oid: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            sign: &ring_signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        }),
        Algorithm::ES384 => Some(Curve {
            oid: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
            sign: &ring_signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }),
        _ => None,
    }
}

/// Wraps a SEC 1 key, which is what `openssl ecparam -genkey` makes, into what `ring` reads.
fn pkcs8(curve: &[u8], sec1: &[u8]) -> Vec<u8> {
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    let version = [0x02, 0x01, 0x00];
    let kind = der(SEQUENCE, &[&EC_PUBLIC_KEY, curve].concat());
    der(SEQUENCE, &[&version, &kind[..], &der(OCTETS, sec1)].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[content.len().leading_zeros() as usize / 8..];
    let mut out = vec![tag];
    match content.len() {
        0..=127 => out.extend(&length[7..]),
        _ => {
            out.push(0x80 | significant.len().to_le_bytes()[0]);
            out.extend(significant);
        }
    }
    out.extend(content);
    out
}

/// `jsonwebtoken`'s way to `ring`.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For key sets, which are not used here.
    key_utils: KeyUtils::new_unimplemented(),
};

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Signing { algorithm: *algorithm, key: key.clone() }))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let key = key.try_get_as_bytes()?.to_vec();
    Ok(Box::new(Verifying { algorithm: *algorithm, key }))
}

struct Signing {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl JwtSigner for Signing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Signer<Vec<u8>> for Signing {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        sign(self.algorithm, self.key.as_bytes(), message).ok_or_else(signature::Error::new)
    }
}

fn sign(algorithm: Algorithm, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let entropy = system::SystemRandom::new();
    match algorithm.family() {
        AlgorithmFamily::Hmac => {
            let key = hmac::Key::new(hmac_of(algorithm)?, key);
            Some(hmac::sign(&key, message).as_ref().to_vec())
        }
        AlgorithmFamily::Rsa => {
            let pair = rsa_pair(key)?;
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(padding(algorithm)?, &entropy, message, &mut signature).ok()?;
            Some(signature)
        }
        AlgorithmFamily::Ec => {
            let pair = EcdsaKeyPair::from_pkcs8(curve(algorithm)?.sign, key, &entropy).ok()?;
            Some(pair.sign(&entropy, message).ok()?.as_ref().to_vec())
        }
        AlgorithmFamily::Ed => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok()?;
            Some(pair.sign(message).as_ref().to_vec())
        }
    }
}

struct Verifying {
    algorithm: Algorithm,
    key: Vec<u8>,
}

impl JwtVerifier for Verifying {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Verifying {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match hmac_of(self.algorithm) {
            Some(kind) => {
                hmac::verify(&hmac::Key::new(kind, &self.key), message, signature).is_ok()
            }
            None => asymmetric(self.algorithm).is_some_and(|kind| {
                UnparsedPublicKey::new(kind, &self.key).verify(message, signature).is_ok()
            }),
        };
        if verified { Ok(()) } else { Err(signature::Error::new()) }
    }
}

fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn padding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::RS256 => Some(&ring_signature::RSA_PKCS1_SHA256),
        Algorithm::RS384 => Some(&ring_signature::RSA_PKCS1_SHA384),
        Algorithm::RS512 => Some(&ring_signature::RSA_PKCS1_SHA512),
        Algorithm::PS256 => Some(&ring_signature::RSA_PSS_SHA256),
        Algorithm::PS384 => Some(&ring_signature::RSA_PSS_SHA384),
        Algorithm::PS512 => Some(&ring_signature::RSA_PSS_SHA512),
        _ => None,
    }
}

fn asymmetric(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        Algorithm::RS256 => Some(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&ring_signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&ring_signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&ring_signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Some(&ring_signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Some(&ring_signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Some(&ring_signature::ED25519),
        _ => None,
    }
}
