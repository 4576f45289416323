//! Telling systemd how far we are: a datagram to the socket that `NOTIFY_SOCKET` names. A unit of
//! `Type=notify` then counts as started only when clients are served.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Serving.
pub(crate) const READY: &str = "READY=1";
/// Told to stop.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Tells it, if anybody wants to know.
pub(crate) fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    match send(&socket, state) {
        Ok(()) => tracing::info!(state, "notified init daemon"),
        Err(error) => tracing::error!(state, %error, "failed to notify systemd"),
    }
}

fn send(socket: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    let name = socket.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
