//! Messages to and from the host on a stream that does not block.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use runcvm_protocol::frame::{self, Decoder, FrameError};
use runcvm_protocol::{ToGuest, ToHost};

/// Bytes that are received in one go.
const CHUNK: usize = 64 * 1024;

/// A connection with the host.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// How many bytes of `unsent` are sent already.
    sent: usize,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Speaks on `socket`, which is connected.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            unsent: Vec::new(),
            sent: 0,
        }
    }

    /// Queues a message; [`Self::flush`] sends it.
    pub(crate) fn queue(&mut self, message: &ToHost) {
        match frame::encode(message) {
            Ok(bytes) => self.unsent.extend_from_slice(&bytes),
            // Only a sentence could be so long, and none is.
            Err(e) => crate::kernel_log::error(&format!("cannot encode a message: {e}")),
        }
    }

    /// Bytes that are queued and not sent.
    pub(crate) fn backlog(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Sends as much as the socket takes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.backlog() > 0 {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.socket.as_raw_fd(), &self.unsent[self.sent..], flags) {
                Ok(n) => self.sent += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Receives what has arrived, at most a chunk. False if the host has hung up.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        match recv(self.socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.decoder.feed(&chunk[..n]);
                Ok(true)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// The next message of those received.
    pub(crate) fn next(&mut self) -> Result<Option<ToGuest>, FrameError> {
        self.decoder.next()
    }

    /// Sends everything and waits until the host hangs up, having read it; until `deadline`
    /// at most.
    pub(crate) fn deliver(&mut self, deadline: Instant) {
        loop {
            match self.flush().and_then(|()| self.receive()) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            // What the host still says concerns nobody any more.
            self.decoder = Decoder::default();
            let mut wanted = PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, self.backlog() > 0);
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), wanted)], timeout) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}
