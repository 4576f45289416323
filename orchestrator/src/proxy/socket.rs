//! The kernel's end of nf_tables: sends a transaction and waits for its verdict.
//!
//! A socket belongs to the network namespace of the thread that opened it, for good. Calls block, for
//! well under a millisecond in the ordinary case: the kernel works through the batch inside `send`, and
//! the answer is there when it returns.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::message::{self, Finished};

/// A batch is copied into the socket's buffer as a whole; 10 000 Services take 1.1 MB.
const SEND_BUFFER_MIN: usize = 1 << 20;
const RECEIVE_BUFFER: usize = 1 << 20;
/// Longest wait for an answer that the kernel owes us.
const ANSWER_TIMEOUT_S: i64 = 10;
const DATAGRAM_BYTES: usize = 64 << 10;

/// Why a transaction did not hold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused message `nth` of the batch; nothing of the batch was done.
    #[error("the kernel refused nf_tables message {nth}: {}", .errno.desc())]
    Refused { nth: u32, errno: Errno },
    /// The socket failed: whether the batch was done is unknown.
    #[error("nf_tables socket: {0}")]
    Socket(#[from] io::Error),
}

impl Error {
    /// The kernel has no nf_tables at all, or none for this caller.
    pub(super) fn is_unsupported(&self) -> bool {
        let errno = match self {
            Self::Refused { errno, .. } => *errno,
            Self::Socket(error) => {
                error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
            }
        };
        matches!(errno, Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// A connection to nf_tables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    send_buffer: usize,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let family = AddressFamily::Netlink;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_S))?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self { fd, send_buffer: 0 })
    }

    /// Commits a batch: all of it, or an error and nothing of it.
    pub(super) fn commit(&mut self, batch: &Finished) -> Result<(), Error> {
        self.reserve(batch.bytes.len())?;
        send(self.fd.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
        let mut first_error = None;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for received in message::messages(&buffer[..length]) {
                let ours = (batch.first..batch.next).contains(&received.sequence);
                if received.kind != message::ERROR || !ours {
                    continue; // the late answer to a batch whose wait was given up
                }
                let number = message::error_number(received.body).unwrap_or(Errno::EBADMSG as i32);
                if number != 0 && first_error.is_none() {
                    let nth = received.sequence - batch.first;
                    first_error = Some(Error::Refused { nth, errno: Errno::from_raw(number) });
                }
                // A refusal of the whole batch bears its first number and is the only answer.
                if received.sequence == batch.acknowledged || received.sequence == batch.first {
                    return first_error.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Makes room for a batch. Needs CAP_NET_ADMIN, like everything else here.
    fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        let wanted = bytes.saturating_mul(2).max(SEND_BUFFER_MIN);
        if wanted > self.send_buffer {
            setsockopt(&self.fd, sockopt::SndBufForce, &wanted)?;
            self.send_buffer = wanted;
        }
        Ok(())
    }
}
