//! How commands, users and roles are written.
//!
//! Every kind of command, with numbers and texts of every size, comes back as it was. With damage it
//! is refused, or read as the one thing that encodes to these very bytes: two encodings of one entry
//! would be two hashes of one log. Nothing is allocated that the bytes do not pay for.

use bytes::Bytes;
use store::command::{Command, decode, decode_role, decode_user, encode, encode_role, encode_user};

use crate::Random;
use crate::draw::Draw;

/// An entry and two rows, whole and damaged.
pub fn seed(seed: u64) {
    let mut draw = Draw::odd(seed);
    let commands: Vec<Command> = (0..draw.random.below(5)).map(|_| draw.any()).collect();
    let entry = encode(&commands);
    assert_eq!(decode(entry.clone().into()).as_ref(), Ok(&commands), "seed {seed}");
    let user = draw.kept_user();
    let kept_user = encode_user(&user);
    assert_eq!(decode_user(kept_user.clone().into()), Ok(user.clone()), "seed {seed}");
    let permissions: Vec<_> = (0..draw.random.below(4)).map(|_| draw.permission()).collect();
    let kept_role = encode_role(&user.name, &permissions);
    let role = decode_role(kept_role.clone().into());
    assert_eq!(role, Ok((user.name, permissions)), "seed {seed}");

    for _ in 0..8 {
        bytes(&damaged(&entry, &mut draw.random));
        bytes(&damaged(&kept_user, &mut draw.random));
        bytes(&damaged(&kept_role, &mut draw.random));
    }
}

/// Anything at all, as an entry and as a row.
pub fn bytes(data: &[u8]) {
    let whole = || Bytes::copy_from_slice(data);
    if let Ok(commands) = decode(whole()) {
        assert_eq!(encode(&commands), data, "two encodings of one entry");
    }
    if let Ok((name, permissions)) = decode_role(whole()) {
        assert_eq!(encode_role(&name, &permissions), data, "two encodings of one role");
    }
    if let Ok(user) = decode_user(whole()) {
        // Roles may stand in any order in a row: they are a set.
        assert_eq!(decode_user(encode_user(&user).into()), Ok(user), "a user is not what he was");
    }
}

fn damaged(sound: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            _ if bytes.is_empty() => {}
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => bytes[at] = random.one_of(&[0x00, 0x7f, 0x80, 0xff]),
            4 => bytes.insert(at, random.one_of(&[0x00, 0x01, 0x80, 0xff])),
            _ => {
                let from = random.below(bytes.len());
                bytes.extend_from_within(from..);
            }
        }
    }
    bytes
}
