//! Notices when somebody else removes our table: `nft flush ruleset`, which is also what a restart of
//! the nftables service of most distributions does.
//!
//! The kernel tells every change of every table to whoever listens. Most of what arrives here is our own
//! doing and is only skipped; a removal of our table, or more news than the socket could hold, is a
//! reason to look whether the table is still there.

use std::io;

use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::message::{self, DEL_TABLE};
use super::ruleset::TABLE;

/// The multicast group of nf_tables' changes, as a bit.
const GROUP: u32 = 1 << (7 - 1);

/// Listens for changes in the network namespace of the thread that opened it.
pub(super) struct Guard(TokioSocket);

impl Guard {
    /// Listens from now on. Must be called inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, GROUP))?;
        Ok(Self(socket))
    }

    /// Resolves when our table may have been removed. Safe to drop and call again: what was read was
    /// looked at.
    pub(super) async fn removed(&mut self) -> io::Result<()> {
        loop {
            match self.0.recv_from_full().await {
                Ok((datagram, _)) if names_our_removal(&datagram) => return Ok(()),
                Ok(_) => {}
                // News were lost, so it is unknown what they were.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn names_our_removal(datagram: &[u8]) -> bool {
    message::messages(datagram).any(|received| {
        let mut attributes = message::attributes(received.body.get(4..).unwrap_or_default());
        received.kind == message::kind(DEL_TABLE)
            && attributes.any(|(kind, value)| {
                kind == 1 && value.strip_suffix(b"\0") == Some(TABLE.as_bytes())
            })
    })
}
