//! URLs as etcd's flags write them: scheme, host and port, never a path, or a socket in the file
//! system; and the `name=url,name=url` lists of `--initial-cluster`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// `http://host:port`, `https://host:port`, `unix://path` or `unixs://path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    tls: bool,
    to: To,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Port { host: String, port: u16 },
    Socket(PathBuf),
}

/// What a listener binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Url {
    /// Parses one URL; the error is one line that names it.
    pub fn parse(input: &str) -> Result<Self, String> {
        let text = input.trim();
        let (tls, socket, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, false, rest),
            Some(("https", rest)) => (true, false, rest),
            Some(("unix", rest)) => (false, true, rest),
            Some(("unixs", rest)) => (true, true, rest),
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        let to = if socket { Self::socket(text, rest)? } else { Self::port(text, rest)? };
        Ok(Self { text: text.to_owned(), tls, to })
    }

    fn socket(text: &str, rest: &str) -> Result<To, String> {
        // The kernel's bound on the address of a socket, which no path can be longer than.
        const PATH_BYTES_MAX: usize = 107;
        if rest.is_empty() || rest.contains('\0') {
            return Err(format!("URL does not name a socket: {text}"));
        }
        if rest.len() > PATH_BYTES_MAX {
            return Err(format!("the path of a socket has at most {PATH_BYTES_MAX} bytes: {text}"));
        }
        Ok(To::Socket(PathBuf::from(rest)))
    }

    fn port(text: &str, rest: &str) -> Result<To, String> {
        let no_port = || format!("URL address does not have the form \"host:port\": {text}");
        let end = rest.find(['/', '?', '#']);
        let (host, port) =
            rest[..end.unwrap_or(rest.len())].rsplit_once(':').ok_or_else(no_port)?;
        if end.is_some() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(no_port)?,
            None if host.contains(':') => return Err(no_port()),
            None => host,
        };
        let port = port.parse().map_err(|_| no_port())?;
        Ok(To::Port { host: host.to_owned(), port })
    }

    /// A comma-separated list, sorted and without repeats, as etcd keeps it.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, String> {
        let mut urls = list.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// Whether the scheme asks for TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// The host as it was written; `None` for a socket in the file system.
    pub fn host(&self) -> Option<&str> {
        match &self.to {
            To::Port { host, .. } => Some(host),
            To::Socket(_) => None,
        }
    }

    /// What to bind. Names are not resolved: only an IP or `localhost` can be bound.
    pub fn place(&self) -> Result<Place, String> {
        let (host, port) = match &self.to {
            To::Socket(path) => return Ok(Place::Unix(path.clone())),
            To::Port { host, port } => (host.as_str(), *port),
        };
        let ip = match host {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            "" => IpAddr::from([0, 0, 0, 0]),
            host => host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({})", self.text))?,
        };
        Ok(Place::Tcp(SocketAddr::new(ip, port)))
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `--initial-cluster`: each member's peer URLs.
pub type ClusterMap = BTreeMap<String, Vec<Url>>;

/// Parses `name=url,name=url`; a name may come several times.
pub fn parse_cluster(list: &str) -> Result<ClusterMap, String> {
    let mut map = ClusterMap::new();
    for item in list.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        map.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    for urls in map.values_mut() {
        urls.sort();
    }
    Ok(map)
}
