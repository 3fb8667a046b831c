//! JSON lines on sockets that do not block.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use serde::Serialize;

use super::poll::PollSet;

/// Greatest length of a line. The last kernel lines of a machine are the longest that is
/// said.
const MAX_LINE: usize = 1 << 20;

/// Bytes that may wait for a peer that does not read.
const MAX_WAITING: usize = 1 << 20;

/// A connection on which both sides send JSON lines.
#[derive(Debug)]
pub(crate) struct LineSocket {
    socket: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    ended: bool,
}

impl LineSocket {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            ended: false,
        })
    }

    /// The peer has gone, or what it said was too long; lines may still be there to take.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        if !self.ended {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, !self.outgoing.is_empty());
            set.watch(&self.socket, events);
        }
    }

    /// Receives and sends what is possible.
    pub(crate) fn step(&mut self, set: &PollSet) {
        if !self.ended && set.readable(&self.socket) {
            self.receive();
        }
        self.transmit();
    }

    /// The next whole line, without its end.
    pub(crate) fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.incoming.iter().position(|&b| b == b'\n')?;
        let mut line: Vec<u8> = self.incoming.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Sends a message as soon as possible.
    pub(crate) fn send(&mut self, message: &impl Serialize) {
        if self.outgoing.len() > MAX_WAITING {
            self.ended = true;
            return;
        }
        let line = serde_json::to_vec(message).expect("messages have no maps with odd keys");
        self.outgoing.extend(line);
        self.outgoing.push(b'\n');
        self.transmit();
    }

    fn receive(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.incoming.extend_from_slice(&buffer[..n]);
                let unfinished = self.incoming.iter().rev().take_while(|&&b| b != b'\n');
                if unfinished.count() > MAX_LINE {
                    self.ended = true;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.ended = true,
        }
    }

    fn transmit(&mut self) {
        while !self.ended && !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(n) => {
                    self.outgoing.drain(..n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Its end shows when reading, after what it still said.
                Err(_) => return,
            }
        }
    }
}
