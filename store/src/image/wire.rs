//! As much of protobuf's encoding as etcd's stored values need.
//!
//! Generated types live at the store's edge and follow the API; what is in a file of etcd's is a
//! handful of messages with a handful of fields, some of them internal to etcd. Writing takes three
//! functions, reading one iterator. Unknown fields are passed over, as protobuf demands, so that a
//! file of a newer etcd can be read.

use crate::varint;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored value is not the protobuf message it should be")]
pub(super) struct Malformed;

/// A field's value, as far as the wire knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers, which none of our messages has.
    Other,
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    /// A signed number, which is written as if it were not.
    pub(super) fn signed(self) -> Result<i64, Malformed> {
        self.number().map(u64::cast_signed)
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    pub(super) fn text(self) -> Result<String, Malformed> {
        let text = str::from_utf8(self.bytes()?).map_err(|_| Malformed)?;
        Ok(text.to_owned())
    }
}

/// Reads the fields of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            // The tenth byte has room for one bit.
            if shift == 63 && *byte > 1 {
                return Err(Malformed);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(Malformed),
        };
        Ok((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            // After an error there is nothing that could be read next.
            self.field().inspect_err(|_| self.0 = &[])
        })
    }
}

/// Appends a field of bytes, unless they are empty, as proto3 does.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(number << 3 | 2);
        varint::put(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Appends a message, even an empty one.
pub(super) fn put_message(out: &mut Vec<u8>, number: u8, message: &[u8]) {
    out.push(number << 3 | 2);
    varint::put(out, message.len() as u64);
    out.extend_from_slice(message);
}

/// Appends a signed field, unless it is zero.
pub(super) fn put_signed(out: &mut Vec<u8>, number: u8, value: i64) {
    put_number(out, number, value.cast_unsigned());
}

/// Appends a field, unless it is zero.
pub(super) fn put_number(out: &mut Vec<u8>, number: u8, value: u64) {
    if value != 0 {
        out.push(number << 3);
        varint::put(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>, Malformed> {
        Fields(bytes).collect()
    }

    #[test]
    fn fields_are_read_as_written() {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"key");
        put_signed(&mut out, 3, -1);
        put_number(&mut out, 4, 300);
        put_number(&mut out, 5, 0);
        let expected =
            [(1, Value::Bytes(b"key")), (3, Value::Number(u64::MAX)), (4, Value::Number(300))];
        assert_eq!(read(&out), Ok(expected.to_vec()));
        assert_eq!(Value::Number(u64::MAX).signed(), Ok(-1));
    }

    #[test]
    fn every_cut_and_every_overlong_number_is_refused() {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"key");
        put_number(&mut out, 15, u64::MAX);
        for length in [1, 2, 3, 4, 6, 7, 10, 15] {
            assert_eq!(read(&out[..length]), Err(Malformed), "{length}");
        }
        assert_eq!(read(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), Err(Malformed));
        assert_eq!(read(&[0x0b]), Err(Malformed), "groups are from another age");
    }

    #[test]
    fn fixed_width_fields_are_passed_over() {
        assert_eq!(
            read(&[0x0d, 1, 2, 3, 4, 0x10, 7]).map(|found| found[1]),
            Ok((2, Value::Number(7)))
        );
    }
}
