//! Numbers in as few bytes as they need: seven bits to a byte, the lowest first, and the highest bit
//! of a byte says that another follows.
//!
//! protobuf writes its numbers so, hence whatever is here byte for byte as etcd has it, and the log
//! does too.

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_numbers_are_short() {
        let cases: [(u64, &[u8]); 6] = [
            (0, &[0]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ];
        for (number, bytes) in cases {
            let mut out = Vec::new();
            super::put(&mut out, number);
            assert_eq!(out, bytes, "{number}");
        }
    }
}
