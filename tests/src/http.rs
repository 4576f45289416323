//! A plain HTTP/1.1 client that hides nothing: what a script with `curl` would see.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::process::PATIENCE;

/// An answer whose body has not been read yet.
pub struct Answer {
    /// The status line's number.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    body: Framing,
}

/// How the length of a body is told.
enum Framing {
    Length(usize),
    /// Pieces, each after its own length.
    Chunked {
        left: usize,
        ended: bool,
    },
    UntilClosed,
}

impl Answer {
    /// Reads one answer from a connection.
    ///
    /// # Panics
    /// When it is not HTTP/1, or nothing comes.
    pub fn read(stream: TcpStream, has_body: bool) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut reader = BufReader::new(stream);
        let first = line(&mut reader);
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not HTTP: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = line(&mut reader);
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Self { status, headers, reader, body: Framing::UntilClosed };
        if !has_body {
            answer.body = Framing::Length(0);
        } else if let Some(length) = answer.header("content-length") {
            answer.body = Framing::Length(length.parse().expect("a length is a number"));
        } else if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = Framing::Chunked { left: 0, ended: false };
        }
        answer
    }

    /// The value of a header, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The whole body.
    ///
    /// # Panics
    /// When it does not end.
    pub fn text(mut self) -> String {
        let mut body = Vec::new();
        while let Some(byte) = self.byte() {
            body.push(byte);
        }
        String::from_utf8(body).expect("bodies are text")
    }

    /// The next line of the body, without its end; `None` when the body has ended.
    ///
    /// # Panics
    /// When nothing comes.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.byte() {
                Some(b'\n') => break,
                Some(byte) => line.push(byte),
                None if line.is_empty() => return None,
                None => break,
            }
        }
        Some(String::from_utf8(line).expect("bodies are text"))
    }

    fn byte(&mut self) -> Option<u8> {
        match &mut self.body {
            Framing::Length(0) => return None,
            Framing::Length(left) => *left -= 1,
            Framing::UntilClosed => {}
            Framing::Chunked { ended: true, .. } => return None,
            Framing::Chunked { left, ended } => {
                if *left == 0 {
                    let size = line(&mut self.reader);
                    *left = usize::from_str_radix(&size, 16).expect("a chunk has a length");
                    if *left == 0 {
                        *ended = true;
                        return None;
                    }
                }
                *left -= 1;
                let mut byte = [0];
                self.reader.read_exact(&mut byte).expect("a chunk is whole");
                if *left == 0 {
                    line(&mut self.reader);
                }
                return Some(byte[0]);
            }
        }
        let mut byte = [0];
        match self.reader.read(&mut byte).expect("the body goes on") {
            0 => None,
            _ => Some(byte[0]),
        }
    }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line comes in time");
    line.trim_end_matches(['\r', '\n']).to_owned()
}

/// Connects and sends one request with these header lines.
///
/// # Panics
/// When nobody listens.
pub fn send(endpoint: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(endpoint).expect("the server listens");
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        request.push_str(&format!("Host: {endpoint}\r\n"));
    }
    for header in headers {
        request.push_str(&format!("{header}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    // A server that has heard enough may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    Answer::read(stream, method != "HEAD")
}

/// Posts JSON and returns the status and the body.
pub fn post(endpoint: &str, path: &str, body: &str) -> (u16, String) {
    let answer = send(endpoint, "POST", path, &[], body);
    (answer.status, answer.text())
}

/// Gets a page and returns the status and the body.
pub fn get(endpoint: &str, path: &str) -> (u16, String) {
    let answer = send(endpoint, "GET", path, &[], "");
    (answer.status, answer.text())
}
