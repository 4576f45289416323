//! Image names: what people type, and the one full form the store keys by.
//!
//! `testbox` means `docker.io/library/testbox:latest`, as everywhere in the container world. The
//! first part is a registry only if it looks like a host (a dot, a port, or `localhost`).

use std::fmt;

/// A full image name: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no image name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid image name {text:?}: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Parses and completes a name.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |reason| ReferenceError { text: text.to_owned(), reason };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !valid_digest(digest)) {
            return Err(refuse("a digest is sha256: and 64 hexadecimal digits"));
        }
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(refuse("a tag is up to 128 of A-Z a-z 0-9 _ . -"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (host, rest.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if name.is_empty() || !repository.split('/').all(valid_component) {
            return Err(refuse(
                "a repository is made of a-z 0-9 with . _ - between, parts split by /",
            ));
        }
        if !valid_host(registry) {
            return Err(refuse("a registry is a host name or address, with a port perhaps"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// The tag, where the name has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the name pins one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Registry and repository, without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether `text` is a digest this store can verify.
pub(super) fn valid_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn valid_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.parse::<u16>().is_ok()
}

fn valid_tag(tag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&tag.len()) && tag.bytes().all(plain) && !tag.starts_with(['.', '-'])
}

fn valid_component(part: &str) -> bool {
    let edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let full = |text: &str| Reference::parse(text).map(|name| name.to_string());
        assert_eq!(full("testbox"), Ok("docker.io/library/testbox:latest".into()));
        assert_eq!(full("testbox:v2"), Ok("docker.io/library/testbox:v2".into()));
        assert_eq!(full("team/app:1"), Ok("docker.io/team/app:1".into()));
        assert_eq!(full("localhost/app"), Ok("localhost/app:latest".into()));
        assert_eq!(full("reg.example:5000/a/b"), Ok("reg.example:5000/a/b:latest".into()));
        assert_eq!(full("docker.io/library/testbox:v1"), Ok("docker.io/library/testbox:v1".into()));
        let digest = format!("app@sha256:{}", "0a".repeat(32));
        assert_eq!(full(&digest), Ok(format!("docker.io/library/{digest}")));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ":v1", "App", "a//b", "a:", "a:-x", "a@sha256:12", "../a", "a/../b", "a b"]
        {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
