//! A non-blocking Unix stream and what could not be written to it yet.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};

use super::super::buffers::Buffers;

/// A non-blocking connection to the Unix socket at `path`. Fails at once when nobody listens
/// there, or when those who do have more waiting than they want.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &address)?;
    Ok(socket.into())
}

/// The host's end of a connection. It is watched edge-triggered: readiness is remembered
/// here until the kernel says otherwise.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    /// A read may find something: data, end of file or an error.
    pub(super) readable: bool,
    writable: bool,
    /// Accepted from the guest and not yet written. The guest's credit bounds it.
    unwritten: VecDeque<u8>,
}

/// The peer takes no more data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerGone;

impl Stream {
    /// Takes over `socket`, which must be non-blocking.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            readable: true,
            writable: true,
            unwritten: VecDeque::new(),
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// How many bytes wait to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.len()
    }

    /// Takes note that the kernel has room again.
    pub(super) fn set_writable(&mut self) {
        self.writable = true;
    }

    /// Reads once into `room`. `Ok(0)` is the end of the peer's data.
    pub(super) fn read(&mut self, room: &Buffers) -> io::Result<usize> {
        let result = room.read_from(self.socket.as_fd());
        if !matches!(&result, Ok(len) if *len > 0) {
            self.readable = false;
        }
        result
    }

    /// Writes what the kernel takes and keeps the rest.
    pub(super) fn write(&mut self, mut data: Buffers) -> Result<(), PeerGone> {
        while self.unwritten.is_empty() && self.writable && !data.is_empty() {
            match data.write_to(self.socket.as_fd()) {
                Ok(len) => data.advance(len as u64),
                Err(error) => self.on_write_error(&error)?,
            }
        }
        if !data.is_empty() {
            let len = usize::try_from(data.len()).expect("bounded by the credit");
            let mut rest = vec![0; len];
            data.copy_to(&mut rest);
            self.unwritten.extend(rest);
        }
        Ok(())
    }

    /// Writes what was kept, as far as the kernel takes it.
    pub(super) fn flush(&mut self) -> Result<(), PeerGone> {
        while self.writable && !self.unwritten.is_empty() {
            let (data, _) = self.unwritten.as_slices();
            match self.socket.write(data) {
                Ok(len) => drop(self.unwritten.drain(..len)),
                Err(error) => self.on_write_error(&error)?,
            }
        }
        if self.unwritten.is_empty() {
            // An idle connection holds no memory.
            self.unwritten = VecDeque::new();
        }
        Ok(())
    }

    /// Drops what was kept: nobody will read it.
    pub(super) fn discard_unwritten(&mut self) {
        self.unwritten = VecDeque::new();
    }

    fn on_write_error(&mut self, error: &io::Error) -> Result<(), PeerGone> {
        match error.kind() {
            ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(())
            }
            ErrorKind::Interrupted => Ok(()),
            _ => Err(PeerGone),
        }
    }

    /// The peer gets an end of file after what it was sent.
    pub(super) fn end_writing(&self) {
        // Fails only when the peer is gone.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The peer's further writes fail.
    pub(super) fn end_reading(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Read);
        self.readable = false;
    }

    /// Ends both directions, so that the peer sees an end of file when the socket is closed.
    /// Closing it with data in it that nobody read would show the peer a reset instead, so
    /// that data is thrown away first: after the shutdown no more can come.
    pub(super) fn into_ended_socket(mut self) -> UnixStream {
        let _ = self.socket.shutdown(Shutdown::Both);
        let mut scratch = [0; 4096];
        while matches!(self.socket.read(&mut scratch), Ok(len) if len > 0) {}
        self.socket
    }
}

/// Writes what is kept for peers that may be slow, all at once, until `deadline`. Returns the
/// streams.
pub(super) fn flush_until(mut streams: Vec<Stream>, deadline: Instant) -> Vec<Stream> {
    let mut done = Vec::new();
    loop {
        let mut late = Vec::new();
        for mut stream in streams {
            stream.set_writable();
            if stream.flush() == Ok(()) && stream.unwritten() > 0 {
                late.push(stream);
            } else {
                done.push(stream);
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if late.is_empty() || left.is_zero() || !wait_writable(&late, left) {
            for stream in &late {
                let lost = stream.unwritten();
                log::warn!("vsock: {lost} bytes that the guest sent were not read in time");
            }
            done.extend(late);
            return done;
        }
        streams = late;
    }
}

fn wait_writable(streams: &[Stream], limit: Duration) -> bool {
    let mut fds: Vec<_> = streams
        .iter()
        .map(|stream| PollFd::new(stream.socket.as_fd(), PollFlags::POLLOUT))
        .collect();
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut fds, limit), Ok(1..) | Err(Errno::EINTR))
}
