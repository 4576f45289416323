//! Notices when somebody else removes our table: `nft flush ruleset`, which is also what a restart of
//! the nftables service of most distributions does.
//!
//! The kernel tells every change of every table to whoever listens. Most of what arrives here is our own
//! doing and is only skipped; a removal of our table, or more news than the socket could hold, is a
//! reason to look whether the table is still there.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::message::{self, DEL_TABLE};
use super::ruleset::TABLE;

/// The multicast group of nf_tables' changes, as a bit.
const GROUP: u32 = 1 << (7 - 1);
const DATAGRAM_BYTES: usize = 64 << 10;

/// Listens for changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Guard {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Guard {
    /// Listens from now on. Must be called inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        Ok(Self { socket: AsyncFd::new(fd)?, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// Resolves when our table may have been removed. Safe to drop and call again: what was read was
    /// looked at.
    pub(super) async fn removed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) if names_our_removal(&self.buffer[..length]) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EWOULDBLOCK) => ready.clear_ready(),
                // News were lost, so it is unknown what they were.
                Err(Errno::ENOBUFS) => return Ok(()),
                Err(errno) => return Err(errno.into()),
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
