//! The way to the launcher: JSON lines on the control socket.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::control::{Event, Reply};

/// The control socket. Lines of several threads do not mix.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    writing: Mutex<()>,
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            writing: Mutex::new(()),
        }
    }

    /// Tells the launcher unasked.
    pub(super) fn event(&self, event: &Event) {
        self.line(event);
    }

    /// Answers a request.
    pub(super) fn reply(&self, reply: &Reply) {
        self.line(reply);
    }

    /// The socket, to read from.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// A launcher that is gone is noticed by reading, where the machine ends for it.
    fn line(&self, message: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(message) else {
            return;
        };
        line.push(b'\n');
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = (&self.socket).write_all(&line) {
            log::warn!("the launcher cannot be told: {e}");
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
