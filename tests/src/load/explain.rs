//! What the server said, word for word: a refused request asked again with a complete client.

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::endpoint::Endpoint;
use super::failure::Failure;

/// Asks once more and returns the error, or says that there was none this time.
pub async fn explain(endpoint: &Endpoint, path: &'static str, message: &[u8]) -> Failure {
    let channel = match endpoint.channel().await {
        Ok(channel) => channel,
        Err(failure) => return failure,
    };
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return Failure::Endpoint(error.to_string());
    }
    let request = tonic::Request::new(message.to_vec());
    match client.server_streaming(request, PathAndQuery::from_static(path), Raw).await {
        Ok(answer) => match answer.into_inner().message().await {
            Ok(_) => Failure::Refused(format!("{path}: an error, but not when asked again")),
            Err(status) => status.into(),
        },
        Err(status) => status.into(),
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
