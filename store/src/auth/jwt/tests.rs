//! Every algorithm signs and checks; every trick with a token is refused.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

/// A folder with keys that `openssl` made, in the forms that people have.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn openssl(&self, args: &str) -> String {
        let args = args.replace('@', &self.path(""));
        let run = Command::new("openssl").args(args.split(' ')).output().unwrap();
        assert!(run.status.success(), "{args}: {}", String::from_utf8_lossy(&run.stderr));
        args.split(' ').next_back().unwrap().to_owned()
    }
}

fn jwt(options: &[(&str, &str)]) -> Result<Jwt, TokenError> {
    Jwt::new(&options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

fn login() -> Login {
    Login { user: "alice".into(), revision: 7 }
}

fn both(method: &str, private: &str, public: &str) {
    let maker = jwt(&[("sign-method", method), ("priv-key", private)]).unwrap();
    let token = maker.assign(&login()).unwrap();
    assert_eq!(maker.recognise(&token), Ok(login()), "{method}");
    let checker = jwt(&[("sign-method", method), ("pub-key", public)]).unwrap();
    assert_eq!(checker.recognise(&token), Ok(login()), "{method}");
    assert_eq!(checker.assign(&login()), Err(Denied::VerifyOnly), "{method}");
    jwt(&[("sign-method", method), ("priv-key", private), ("pub-key", public)]).unwrap();
    // One letter of the signature or of the claims.
    for at in [token.len() - 8, token.len() / 2] {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(maker.recognise(&forged), Err(Denied::InvalidToken), "{method}");
    }
}

#[test]
fn rsa_in_both_forms_and_both_paddings() {
    let folder = Folder::new();
    let pkcs8 = folder.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out @/rsa8");
    let pkcs1 = folder.openssl("rsa -traditional -in @/rsa8 -out @/rsa1");
    let public = folder.openssl("pkey -pubout -in @/rsa8 -out @/rsa.pub");
    for method in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        both(method, &pkcs8, &public);
    }
    both("RS256", &pkcs1, &public);
}

#[test]
fn elliptic_curves_in_both_forms() {
    let folder = Folder::new();
    for (method, curve) in [("ES256", "prime256v1"), ("ES384", "secp384r1")] {
        let sec1 = folder.openssl(&format!("ecparam -genkey -noout -name {curve} -out @/{curve}"));
        let pkcs8 = folder.openssl(&format!("pkcs8 -topk8 -nocrypt -in @/{curve} -out @/{curve}8"));
        let public = folder.openssl(&format!("ec -pubout -in @/{curve} -out @/{curve}.pub"));
        both(method, &sec1, &public);
        both(method, &pkcs8, &public);
    }
}

#[test]
fn edwards_curve_and_certificates() {
    let folder = Folder::new();
    let key = folder.openssl("genpkey -algorithm ed25519 -out @/ed");
    let public = folder.openssl("pkey -pubout -in @/ed -out @/ed.pub");
    both("EdDSA", &key, &public);
    let certificate = folder.openssl("req -x509 -subj /CN=x -key @/ed -out @/ed.crt");
    both("EdDSA", &key, &certificate);
}

#[test]
fn hmac_with_any_bytes() {
    let folder = Folder::new();
    let secret = folder.write("secret", b"a secret that is long enough\xff\x00");
    for method in ["HS256", "HS384", "HS512"] {
        let jwt = jwt(&[("sign-method", method), ("priv-key", &secret)]).unwrap();
        let token = jwt.assign(&login()).unwrap();
        assert_eq!(jwt.recognise(&token), Ok(login()));
    }
}

/// A token put together by hand.
fn token(header: &str, claims: &str, secret: &[u8]) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[test]
fn tricks_with_tokens_get_nowhere() {
    let folder = Folder::new();
    let secret = folder.write("secret", b"secret");
    let jwt_hs = jwt(&[("sign-method", "HS256"), ("priv-key", &secret)]).unwrap();
    let hs = r#"{"alg":"HS256","typ":"JWT"}"#;
    let good = r#"{"username":"alice","revision":7,"exp":99999999999}"#;
    let made = |header: &str, claims: &str| jwt_hs.recognise(&token(header, claims, b"secret"));
    assert_eq!(made(hs, good), Ok(login()));
    // What is accepted beyond that: a fraction, and no end.
    assert_eq!(made(hs, r#"{"username":"alice","revision":7.0}"#), Ok(login()));

    let bad = Err(Denied::InvalidToken);
    assert_eq!(made(r#"{"alg":"none"}"#, good), bad);
    assert_eq!(made(r#"{"alg":"HS512"}"#, good), bad);
    assert_eq!(made(r#"{"typ":"JWT"}"#, good), bad);
    assert_eq!(made(hs, r#"{"username":"alice","revision":7,"exp":1}"#), bad, "expired");
    assert_eq!(made(hs, r#"{"username":"alice","revision":7,"nbf":99999999999}"#), bad, "not yet");
    assert_eq!(made(hs, r#"{"revision":7}"#), bad, "nobody: this one crashed etcd");
    assert_eq!(made(hs, r#"{"username":"alice"}"#), bad, "no revision");
    assert_eq!(made(hs, r#"{"username":["alice"],"revision":7}"#), bad);
    assert_eq!(made(hs, r#"{"username":"alice","revision":-7}"#), bad);
    assert_eq!(made(hs, "7"), bad);
    assert_eq!(jwt_hs.recognise(&token(hs, good, b"another")), bad, "another cluster's");
    for odd in ["", ".", "..", "...", "a.b.c", &"x".repeat(100_000)] {
        assert_eq!(jwt_hs.recognise(odd), bad);
    }
    // Without a signature.
    let unsigned = token(r#"{"alg":"none"}"#, good, b"");
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    assert_eq!(jwt_hs.recognise(&format!("{unsigned}.")), bad);
    assert_eq!(jwt_hs.recognise(unsigned), bad);

    // A public key as the secret of an HMAC.
    let private = folder.openssl("genpkey -algorithm ed25519 -out @/ed");
    let public = folder.openssl("pkey -pubout -in @/ed -out @/ed.pub");
    let ed = jwt(&[("sign-method", "EdDSA"), ("priv-key", &private)]).unwrap();
    let confused = token(hs, good, &fs::read(public).unwrap());
    assert_eq!(ed.recognise(&confused), bad);
}

#[test]
fn a_token_ends() {
    let folder = Folder::new();
    let secret = folder.write("secret", b"secret");
    let ended = jwt(&[("sign-method", "HS256"), ("priv-key", &secret), ("ttl", "0")]).unwrap();
    let token = ended.assign(&login()).unwrap();
    // `exp` is in whole seconds, and so is the time it is compared with.
    let until = jsonwebtoken::get_current_timestamp() + 2;
    while jsonwebtoken::get_current_timestamp() < until && ended.recognise(&token).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ended.recognise(&token), Err(Denied::InvalidToken));
}

#[test]
fn bad_options_are_told_in_one_line() {
    let folder = Folder::new();
    let rsa = folder.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out @/rsa");
    let other = folder.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out @/two");
    let public = folder.openssl("pkey -pubout -in @/two -out @/two.pub");
    let weak = folder.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out @/weak");
    let ed = folder.openssl("genpkey -algorithm ed25519 -out @/ed");
    let empty = folder.write("empty", b"");
    for (options, needle) in [
        (vec![], "sign-method \"\" is none"),
        (vec![("sign-method", "none"), ("priv-key", &rsa)], "sign-method \"none\" is none"),
        (vec![("sign-method", "ES512"), ("priv-key", &rsa)], "ES512 is not built"),
        (vec![("sign-method", "RS256")], "a key is needed"),
        (vec![("sign-method", "HS256")], "a key is needed"),
        (vec![("sign-method", "HS256"), ("priv-key", &empty)], "a key is needed"),
        (vec![("sign-method", "RS256"), ("priv-key", "/no/such")], "/no/such"),
        (vec![("sign-method", "RS256"), ("priv-key", &empty)], "no private key"),
        (vec![("sign-method", "RS256"), ("priv-key", &ed)], "no private key"),
        (vec![("sign-method", "RS256"), ("priv-key", &weak)], "no private key"),
        (vec![("sign-method", "ES256"), ("priv-key", &rsa)], "no private key"),
        (vec![("sign-method", "ES256"), ("pub-key", &public)], "no public key"),
        (vec![("sign-method", "RS256"), ("pub-key", &other)], "no public key"),
        (
            vec![("sign-method", "RS256"), ("priv-key", &rsa), ("pub-key", &public)],
            "do not belong together",
        ),
        (vec![("sign-method", "RS256"), ("priv-key", &rsa), ("ttl", "soon")], "ttl \"soon\""),
    ] {
        let error = jwt(&options).map(drop).expect_err("must be refused").to_string();
        assert!(error.contains(needle), "{options:?}: {error}");
        assert!(!error.contains('\n'));
    }
}
