//! What the shim holds open: the streams of a running container, and its clients.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, Flock, OFlag, fcntl};

use super::log::{LineCutter, LogFile, format_entry};
use super::protocol::{REQUEST_BYTES_MAX, Response, StartRequest};

/// A container's output stream.
pub(super) struct Output {
    pub(super) name: &'static str,
    pub(super) pipe: Option<File>,
    pub(super) cutter: LineCutter,
}

/// What the shim holds for a container that is not over.
pub(super) struct Live {
    pub(super) request: StartRequest,
    pub(super) outputs: [Output; 2],
    pub(super) log: LogFile,
    /// The helper's report, until it came.
    pub(super) report: Option<(File, Vec<u8>)>,
    /// Who waits for the start.
    pub(super) client: Option<u64>,
    pub(super) _use_lock: Flock<File>,
}

pub(super) struct Client {
    pub(super) id: u64,
    pub(super) stream: UnixStream,
    pub(super) input: Vec<u8>,
    pub(super) watches: bool,
    pub(super) gone: bool,
}

impl Client {
    /// A whole request line, once it is there.
    pub(super) fn read_line(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0_u8; 16 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.gone = true,
                Ok(length) => self.input.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.gone = true,
            }
            if self.input.len() > REQUEST_BYTES_MAX {
                self.gone = true;
            }
            if self.gone {
                break;
            }
        }
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let rest = self.input.split_off(end + 1);
        Some(std::mem::replace(&mut self.input, rest))
    }

    pub(super) fn send(&mut self, response: &Response) {
        let mut line = serde_json::to_vec(response).unwrap_or_default();
        line.push(b'\n');
        if self.stream.write_all(&line).is_err() {
            self.gone = true;
        }
    }
}

impl Output {
    pub(super) fn new(name: &'static str, pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self { name, pipe: Some(nonblocking(pipe)?), cutter: LineCutter::default() })
    }
}

impl Live {
    /// Moves what one stream has to the log; says whether there may be more.
    pub(super) fn pump(&mut self, which: usize) -> bool {
        let output = &mut self.outputs[which];
        let Some(pipe) = &mut output.pipe else { return false };
        let mut chunk = [0_u8; 64 << 10];
        let length = match pipe.read(&mut chunk) {
            Ok(0) => {
                self.close(which);
                return false;
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.close(which);
                return false;
            }
        };
        let time = now_text();
        let mut entries = Vec::with_capacity(length + 64);
        output.cutter.push(&chunk[..length], |text, full| {
            format_entry(&mut entries, &time, output.name, text, full);
        });
        self.log.write(&entries);
        true
    }

    pub(super) fn close(&mut self, which: usize) {
        let output = &mut self.outputs[which];
        output.pipe = None;
        let (time, mut entries) = (now_text(), Vec::new());
        output.cutter.finish(|text, full| {
            format_entry(&mut entries, &time, output.name, text, full);
        });
        self.log.write(&entries);
    }
}

pub(super) fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}

fn now_text() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
