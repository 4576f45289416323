//! Places to listen: ports, and sockets in the file system. What comes out of either is a stream of
//! bytes and the name of who is at its other end; nothing above knows which it was.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::config::{ListenConfig, Place, Url};

/// Connections that may wait to be accepted; the kernel has its own bound below or above.
const BACKLOG: u32 = 1024;

/// A bound place.
pub(crate) enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A socket in the file system.
    Unix { listener: UnixListener, _file: SocketFile },
}

/// One connection, as the acceptor hands it to a worker's runtime.
pub(crate) enum Socket {
    /// Of a port.
    Tcp(std::net::TcpStream),
    /// Of a socket in the file system.
    Unix(std::os::unix::net::UnixStream),
}

/// One connection, on the runtime that serves it.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

impl Listener {
    /// Binds what a URL names; the error names the URL. Needs a runtime.
    pub(crate) fn bind(url: &Url, config: &ListenConfig) -> Result<Self, String> {
        let bound = match url.place()? {
            Place::Tcp(address) => bind_port(address, config).map(Self::Tcp),
            Place::Unix(path) => bind_file(&path),
        };
        bound.map_err(|error| format!("cannot listen on {url}: {error}"))
    }

    /// The port's address; a socket in the file system has none.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                stream.into_std().map(Socket::Tcp)
            }
            Self::Unix { listener, .. } => listener.accept().await?.0.into_std().map(Socket::Unix),
        }
    }
}

impl Socket {
    /// Brings it to the current runtime.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Either::Left),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Either::Right),
        }
    }

    /// Who is at the other end, for log lines.
    pub(crate) fn remote(&self) -> String {
        match self {
            Self::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "gone".to_owned(), |address| address.to_string())
            }
            Self::Unix(_) => "local".to_owned(),
        }
    }
}

fn bind_port(address: SocketAddr, config: &ListenConfig) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Go, and so etcd, always sets it; without it a restart would wait out the old connections.
    socket.set_reuseaddr(true)?;
    if config.reuse_port {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds a socket in the file system. One that a dead process left behind is replaced; one that
/// somebody answers on, or a file of another kind, is not.
fn bind_file(path: &Path) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is in the way"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix { listener, _file: SocketFile(path.to_owned()) })
}

/// Removes the socket's file when it is closed.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already; then there is nothing to do.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config() -> ListenConfig {
        Config::in_memory("x").listen
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    /// Why a place cannot be bound.
    fn refusal(url: &Url, config: &ListenConfig) -> String {
        Listener::bind(url, config).err().expect("it must not be bound")
    }

    #[tokio::test]
    async fn a_port_is_one_listeners_unless_it_is_shared() {
        let alone = config();
        let first = Listener::bind(&url("http://127.0.0.1:0"), &alone).expect("any port");
        let port = url(&format!("http://{}", first.address().expect("a port has an address")));
        assert!(refusal(&port, &alone).contains("in use"));
        drop(first);
        let shared = ListenConfig { reuse_port: true, ..config() };
        let first = Listener::bind(&url("http://[::1]:0"), &shared).expect("any port");
        let port = url(&format!("http://{}", first.address().expect("a port has an address")));
        Listener::bind(&port, &shared).expect("beside the first");
        assert!(refusal(&port, &alone).contains("in use"));
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("s");
        let place = url(&format!("unix://{}", path.display()));
        std::fs::write(&path, "precious").expect("written");
        assert!(refusal(&place, &config()).contains("a file is in the way"));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
        std::fs::remove_file(&path).expect("removed");

        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let listener = Listener::bind(&place, &config()).expect("in the place of a dead one");
        assert!(refusal(&place, &config()).contains("in use"));
        let client = UnixStream::connect(&path).await.expect("it listens");
        let socket = listener.accept().await.expect("a connection");
        assert_eq!(socket.remote(), "local");
        socket.into_stream().expect("on this runtime");
        drop((listener, client));
        assert!(!path.exists(), "its file goes with it");
    }
}
