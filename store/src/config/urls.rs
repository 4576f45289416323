//! URLs as etcd's flags write them: scheme, host and port, never a path; and the
//! `name=url,name=url` lists of `--initial-cluster`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    tls: bool,
    host: String,
    port: u16,
}

impl Url {
    /// Parses one URL; the error is one line that names it.
    pub fn parse(input: &str) -> Result<Self, String> {
        let text = input.trim();
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(("unix" | "unixs", _)) => {
                return Err(format!("unix sockets are not built yet: {text}"));
            }
            _ => return Err(format!("URL scheme must be http or https: {text}")),
        };
        if rest.contains(['/', '?', '#']) {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let no_port = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(no_port)?,
            None if host.contains(':') => return Err(no_port()),
            None => host,
        };
        let port = port.parse().map_err(|_| no_port())?;
        Ok(Self { text: text.to_owned(), tls, host: host.to_owned(), port })
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

    /// The address to bind. Names are not resolved: only an IP or `localhost` can be bound.
    pub fn bind_address(&self) -> Result<SocketAddr, String> {
        let ip = if self.host == "localhost" {
            IpAddr::from([127, 0, 0, 1])
        } else if self.host.is_empty() {
            IpAddr::from([0, 0, 0, 0])
        } else {
            self.host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({})", self.text))?
        };
        Ok(SocketAddr::new(ip, self.port))
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
