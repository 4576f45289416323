//! The protobuf wire: tags, varints and lengths over one slice.
//!
//! Nothing is allocated and nothing is trusted: every length is checked against what is left, and
//! the two group wire types, which Kubernetes never wrote, are refused.

use super::Malformed;

/// One field's value as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self, name: &'static str) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Fixed32(_) => {
                Err(Malformed::WrongType(name))
            }
        }
    }

    pub(super) fn varint(self, name: &'static str) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            // The absent value of a map entry.
            Self::Bytes([]) => Ok(0),
            Self::Bytes(_) | Self::Fixed64(_) | Self::Fixed32(_) => Err(Malformed::WrongType(name)),
        }
    }

    pub(super) fn double(self, name: &'static str) -> Result<f64, Malformed> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Self::Varint(_) | Self::Bytes(_) | Self::Fixed32(_) => Err(Malformed::WrongType(name)),
        }
    }
}

/// Walks the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's number and value, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed::Corrupt)?;
        if number == 0 {
            return Err(Malformed::Corrupt);
        }
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Corrupt)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::Corrupt),
        };
        Ok(Some((number, payload)))
    }

    /// The next of a run of bare varints, `None` at the end.
    pub(super) fn packed_varint(&mut self) -> Result<Option<u64>, Malformed> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for (nth, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[nth + 1..];
                return Ok(number);
            }
        }
        Err(Malformed::Corrupt)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Corrupt)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("take returned N bytes"))
    }
}
