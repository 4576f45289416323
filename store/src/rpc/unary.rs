//! The short way for calls of one message each way.
//!
//! tonic treats every call as two streams: bodies and codecs on the heap, a buffer into which the
//! request is copied before it is decoded and one in which the answer grows, state machines around
//! both. The calls that make up nearly all load (put, range, delete, transaction, lease grant) need
//! none of it. Here the request's frame is decoded where it lies, so that keys and values are slices
//! of what came from the socket; the answer is one piece of bytes of the right size, and after it
//! the trailers.
//!
//! The services behind it are the same, metadata and extensions included, and so is what a client
//! sees. A request that is not plain (it names a compression) goes tonic's way.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use super::router::BoxError;
use super::status;

/// In front of each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// Whether this way is open to a request.
pub(super) fn is_plain<B>(request: &Request<B>) -> bool {
    !request.headers().contains_key("grpc-encoding")
}

/// An encoded answer with its prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Framed(Bytes);

impl Framed {
    pub(super) fn of(message: &impl Message) -> Result<Self, Status> {
        let mut frame = Vec::with_capacity(PREFIX + message.encoded_len());
        frame.resize(PREFIX, 0);
        message.encode(&mut frame).expect("a vector grows");
        Self::finish(frame)
    }

    /// From a buffer that begins with room for the prefix.
    pub(super) fn finish(mut frame: Vec<u8>) -> Result<Self, Status> {
        // HTTP/2 counts what may be sent at once with 31 bits.
        if i32::try_from(frame.len()).is_err() {
            return Err(status::answer_too_large());
        }
        let length = u32::try_from(frame.len() - PREFIX).expect("31 bits");
        frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        Ok(Self(frame.into()))
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The message again.
    pub(super) fn decode<A: Message + Default>(&self) -> Result<A, Status> {
        A::decode(self.0.slice(PREFIX..)).map_err(|error| status::undecodable(&error))
    }
}

/// Reads the request and has it answered.
pub(super) fn serve<B, Q, F>(
    request: Request<B>,
    bytes_max: usize,
    call: impl FnOnce(tonic::Request<Q>) -> F + Send + 'static,
) -> impl Future<Output = Result<Framed, Status>> + Send + 'static
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError> + Send,
    Q: Message + Default,
    F: Future<Output = Result<Framed, Status>> + Send,
{
    let (parts, body) = request.into_parts();
    async move {
        let message = read(body, bytes_max).await?;
        let metadata = MetadataMap::from_headers(parts.headers);
        call(tonic::Request::from_parts(metadata, parts.extensions, message)).await
    }
}

/// An answer in the form that tonic gives it.
pub(super) fn respond(answer: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Answer::Message(answer)));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

/// The one message of a request. Frames after it are waited for, as a request ends with its body,
/// and ignored.
async fn read<B, Q>(body: B, bytes_max: usize) -> Result<Q, Status>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
    Q: Message + Default,
{
    let mut body = pin!(body);
    let mut read = Bytes::new();
    let mut message = None;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| Status::from_error(error.into()))?;
        let Ok(mut data) = frame.into_data() else { break };
        if message.is_some() {
            continue;
        }
        let data = data.copy_to_bytes(data.remaining());
        read = if read.is_empty() {
            data
        } else {
            let mut joined = BytesMut::from(read);
            joined.extend_from_slice(&data);
            joined.freeze()
        };
        if let Some(length) = length(&read, bytes_max)?
            && let Some(encoded) = read.get(PREFIX..PREFIX + length)
        {
            let encoded = read.slice_ref(encoded);
            message = Some(Q::decode(encoded).map_err(|error| status::undecodable(&error))?);
            read = Bytes::new();
        }
    }
    message.ok_or_else(|| status::incomplete(read.is_empty()))
}

/// The length that a prefix gives, once it is there.
fn length(read: &[u8], bytes_max: usize) -> Result<Option<usize>, Status> {
    let Some(prefix) = read.first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(status::bad_compression(compressed));
    }
    match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length) if length <= bytes_max => Ok(Some(length)),
        _ => Err(status::message_too_large()),
    }
}

/// The body of an answer: a message, the trailers, the end.
enum Answer {
    Message(Bytes),
    Trailers,
    End,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match *self {
            Self::Message(_) => Self::Trailers,
            Self::Trailers | Self::End => Self::End,
        };
        Poll::Ready(match std::mem::replace(&mut *self, next) {
            Self::Message(message) => Some(Ok(Frame::data(message))),
            Self::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::End => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::End)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proto::etcdserverpb as pb;
    use tonic::Code;

    use super::*;

    /// A request's body in the given pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn put() -> pb::PutRequest {
        let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"a value"));
        pb::PutRequest { key, value, ..Default::default() }
    }

    async fn read_pieces(pieces: &[&[u8]], max: usize) -> Result<pb::PutRequest, Code> {
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        read(Pieces(pieces), max).await.map_err(|status| status.code())
    }

    /// Goal: a message is read however its frames are cut, and what follows it is ignored.
    #[tokio::test]
    async fn a_message_may_come_in_any_pieces() {
        let whole = Framed::of(&put()).expect("small").0;
        for cut in 0..=whole.len() {
            for second in cut..=whole.len() {
                let pieces = [&whole[..cut], &whole[cut..second], &whole[second..], b"more"];
                assert_eq!(read_pieces(&pieces, 100).await, Ok(put()), "{cut} {second}");
            }
        }
    }

    /// Goal: what is no message is refused with the code that grpc-go gives.
    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let whole = Framed::of(&put()).expect("small").0;
        assert_eq!(read_pieces(&[], 100).await, Err(Code::Internal));
        assert_eq!(read_pieces(&[&whole[..7]], 100).await, Err(Code::Internal));
        let large = read_pieces(&[&whole], whole.len() - PREFIX - 1).await;
        assert_eq!(large, Err(Code::ResourceExhausted));
        let mut compressed = whole.to_vec();
        compressed[0] = 1;
        assert_eq!(read_pieces(&[&compressed], 100).await, Err(Code::Internal));
        let mut garbled = whole.to_vec();
        garbled[PREFIX] = 0xff;
        assert_eq!(read_pieces(&[&garbled], 100).await, Err(Code::Internal));
    }

    /// Goal: the response is what tonic would have sent: type, message, status in the trailers.
    #[tokio::test]
    async fn an_answer_is_message_and_trailers() {
        let request = Request::new(Pieces(VecDeque::from([Framed::of(&put()).expect("small").0])));
        let echo =
            |request: tonic::Request<pb::PutRequest>| async move { Framed::of(request.get_ref()) };
        let answer = serve(request, 100, echo).await.expect("an answer");
        let response = respond(answer.into_bytes());
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = response.into_body().collect().await.expect("never fails");
        assert_eq!(body.trailers().expect("are sent")["grpc-status"], "0");
        assert_eq!(body.to_bytes(), Framed::of(&put()).expect("small").0);
    }
}
