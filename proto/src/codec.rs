//! How messages become bytes: prost, with buffers of the size that most messages have.
//!
//! tonic gives every call a buffer of 8 KiB in each direction. Keys and values are slices of it, so a
//! put of 300 bytes would hold 8 KiB for as long as its value is held. A small buffer grows for the
//! few messages that need it.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a put of a small value and its answer fit into.
const BUFFER_BYTES: usize = 1024;
/// How much of a stream is encoded before it is handed on: tonic's own figure.
const YIELD_BYTES: usize = 32 * 1024;

/// The codec of all generated clients and servers.
#[derive(Clone, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
