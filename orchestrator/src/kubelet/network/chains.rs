//! Asking nf_tables for base chains at the forward hook: one dump over netlink, read by hand.
//!
//! `iptables` of every current distribution is a front of nf_tables, so a firewall's policy shows
//! here. The message is small and fixed, and so is its reading: type-length-value attributes.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

/// A base chain at the forward hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) drops: bool,
}

const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = (10 << 8) | 4;
const NEW_CHAIN: u16 = (10 << 8) | 3;
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const FORWARD_HOOK: u32 = 2;
const POLICY_DROP: u32 = 0;
const FAMILY_BRIDGE: u8 = 7;
/// Messages of a dump beyond this many are not read.
const READS_MAX: usize = 4096;

/// All base chains at the forward hook, of every family but bridge.
pub(super) fn forward_chains() -> io::Result<Vec<Chain>> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    bind(fd.as_raw_fd(), &kernel)?;
    let mut request = Vec::new();
    let length = u32::try_from(HEADER + GENERIC_HEADER).map_err(io::Error::other)?;
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&GET_CHAIN.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[0; GENERIC_HEADER]);
    sendto(fd.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
    let mut chains = Vec::new();
    let mut buffer = vec![0_u8; 64 << 10];
    for _ in 0..READS_MAX {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read_messages(&buffer[..length], &mut chains)? {
            return Ok(chains);
        }
    }
    Err(io::Error::other("the list of chains does not end"))
}

/// Reads one datagram; says whether it ended the dump.
fn read_messages(mut bytes: &[u8], chains: &mut Vec<Chain>) -> io::Result<bool> {
    while bytes.len() >= HEADER {
        let length = usize::try_from(u32_at(bytes, 0)).unwrap_or(0);
        let kind = u16_at(bytes, 4);
        if length < HEADER || length > bytes.len() {
            return Err(io::Error::other("a netlink message has a bad length"));
        }
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(io::Error::other("the kernel lists no chains")),
            NEW_CHAIN if length >= HEADER + GENERIC_HEADER && bytes[HEADER] != FAMILY_BRIDGE => {
                chains.extend(read_chain(&bytes[HEADER + GENERIC_HEADER..length]));
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn read_chain(bytes: &[u8]) -> Option<Chain> {
    let (mut table, mut name, mut hook, mut policy) = (String::new(), String::new(), None, None);
    for (kind, value) in attributes(bytes) {
        let text = || String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        match kind {
            CHAIN_TABLE => table = text(),
            CHAIN_NAME => name = text(),
            CHAIN_POLICY => policy = be_u32(value),
            CHAIN_HOOK => {
                hook = attributes(value)
                    .find(|(kind, _)| *kind == HOOK_NUMBER)
                    .and_then(|(_, value)| be_u32(value));
            }
            _ => {}
        }
    }
    (hook == Some(FORWARD_HOOK)).then(|| Chain { table, name, drops: policy == Some(POLICY_DROP) })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(bytes, 0));
        // The two top bits are flags.
        let kind = u16_at(bytes, 2) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_dropping_forward_chain_is_recognised() {
        let hook = attribute(HOOK_NUMBER, &2_u32.to_be_bytes());
        let chain = [
            attribute(CHAIN_TABLE, b"filter\0"),
            attribute(CHAIN_NAME, b"FORWARD\0"),
            attribute(CHAIN_HOOK | 0x8000, &hook),
            attribute(CHAIN_POLICY, &0_u32.to_be_bytes()),
        ]
        .concat();
        let found = read_chain(&chain).expect("is at the hook");
        assert_eq!((found.table.as_str(), found.name.as_str()), ("filter", "FORWARD"));
        assert!(found.drops);
        assert_eq!(read_chain(&attribute(CHAIN_NAME, b"user\0")), None);
    }

    #[test]
    fn cut_messages_are_refused_not_read_past() {
        assert!(
            read_messages(&[200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut Vec::new())
                .is_err()
        );
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
    }
}
