//! Cuts a request's body into JSON objects.
//!
//! A body is a sequence of them, with or without white space between: one for most RPCs, one per
//! message for streams, where the next may come minutes later. The cutter only counts brackets
//! outside strings; whether an object makes sense is told by who reads it. It looks at each byte
//! once, holds one object at a time, and both its bytes and its depth have a bound.

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

use crate::limits::{JSON_DEPTH_MAX, REFUSED_BYTES_MAX};

/// Why there is no next object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is not JSON, or not an object.
    Syntax(&'static str),
    /// It is larger than any request may be.
    TooLarge,
    /// The client went away.
    Gone,
}

/// The objects of a body.
pub(super) struct Values<B> {
    body: B,
    buffer: BytesMut,
    scan: Scan,
    bytes_max: usize,
    ended: bool,
}

/// How far the current object has been looked at.
#[derive(Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Values<B> {
    /// Objects of at most so many bytes.
    pub(super) fn new(body: B, bytes_max: usize) -> Self {
        let (buffer, scan) = (BytesMut::new(), Scan::default());
        Self { body, buffer, scan, bytes_max, ended: false }
    }

    /// The next object's text; `None` at the end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(end) = self.scan.end_of_object(&mut self.buffer)? {
                self.scan = Scan::default();
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            if self.ended {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(Broken::Syntax("unexpected EOF")),
                };
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(_)) => return Err(Broken::Gone),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.buffer.len() + data.len() > self.bytes_max {
                        return Err(Broken::TooLarge);
                    }
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
    }

    /// Takes the rest of the body and drops it, up to a bound. A client that is still sending when
    /// its connection is closed does not get to read why.
    pub(super) async fn discard(&mut self) {
        self.buffer = BytesMut::new();
        let mut left = REFUSED_BYTES_MAX;
        while let Some(Ok(frame)) = self.body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

impl Scan {
    /// Goes on where it stopped. Tells where the object ends, if it does.
    fn end_of_object(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, Broken> {
        if self.depth == 0 {
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            buffer.advance(blank);
            if buffer.first().is_some_and(|byte| *byte != b'{') {
                return Err(Broken::Syntax("syntax error: an object must begin with {"));
            }
        }
        while let Some(byte) = buffer.get(self.at) {
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                return Ok(Some(self.at));
            }
            if self.depth > JSON_DEPTH_MAX {
                return Err(Broken::Syntax("exceeded max depth"));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    /// All objects of a body that arrives in pieces of `size` bytes.
    async fn cut(text: &str, size: usize, bytes_max: usize) -> (Vec<String>, Option<Broken>) {
        let pieces = text.as_bytes().chunks(size).map(Bytes::copy_from_slice);
        let frames =
            pieces.map(|piece| Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
        let mut values = Values::new(body, bytes_max);
        let mut objects = Vec::new();
        loop {
            match values.next().await {
                Ok(Some(object)) => {
                    objects.push(String::from_utf8(object.to_vec()).expect("ASCII"))
                }
                Ok(None) => return (objects, None),
                Err(broken) => return (objects, Some(broken)),
            }
        }
    }

    #[tokio::test]
    async fn objects_are_cut_the_same_way_however_they_arrive() {
        let text = " {\"a\":\"}\\\"{\"}\n\n{}{\"b\":[{\"c\":[]}]} ";
        for size in 1..text.len() {
            let (objects, broken) = cut(text, size, 1000).await;
            assert_eq!(objects, ["{\"a\":\"}\\\"{\"}", "{}", "{\"b\":[{\"c\":[]}]}"]);
            assert_eq!(broken, None);
        }
    }

    #[tokio::test]
    async fn what_is_no_object_is_told() {
        for text in ["null", "[]", "\"x\"", "7", "}", "]", "\u{0}"] {
            let (objects, broken) = cut(text, 1, 1000).await;
            assert!(matches!(broken, Some(Broken::Syntax(_))), "{text}");
            assert!(objects.is_empty());
        }
        assert_eq!(
            cut("{}{", 1, 1000).await,
            (vec!["{}".to_owned()], Some(Broken::Syntax("unexpected EOF")))
        );
    }

    #[tokio::test]
    async fn bytes_and_depth_are_bounded() {
        assert_eq!(cut("{\"a\":\"0123456789\"}", 4, 10).await.1, Some(Broken::TooLarge));
        let deep = "{\"a\":".to_owned() + &"[".repeat(1_000_000);
        assert_eq!(cut(&deep, 1000, 2_000_000).await.1, Some(Broken::Syntax("exceeded max depth")));
    }

    #[tokio::test]
    async fn an_empty_body_has_no_object() {
        let mut values = Values::new(Full::new(Bytes::new()), 10);
        assert_eq!(values.next().await, Ok(None));
    }
}
