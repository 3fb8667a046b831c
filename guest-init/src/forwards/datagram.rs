//! A datagram and its answer, carried over a stream as DNS over TCP has them (RFC 1035,
//! section 4.2.2): each with its length in front, in two bytes, big-endian.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};

use super::link::Broken;
use crate::events::Watched;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A datagram that waits for its answer.
#[derive(Debug)]
pub(super) struct Query {
    host: Watched<OwnedFd>,
    connecting: bool,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    /// Who asks.
    pub(super) asker: SocketAddr,
    /// The number of the service that was asked.
    pub(super) service: u32,
    /// When nobody waits any more.
    pub(super) deadline: Instant,
}

impl Query {
    /// Asks on `host`, whose connection was begun; none for what is too long.
    pub(super) fn new(
        mut host: Watched<OwnedFd>,
        datagram: &[u8],
        asker: SocketAddr,
        service: u32,
    ) -> Option<Self> {
        let len = u16::try_from(datagram.len()).ok()?;
        host.want(EpollFlags::EPOLLOUT);
        Some(Self {
            host,
            connecting: true,
            request: [&len.to_be_bytes()[..], datagram].concat(),
            sent: 0,
            answer: Vec::new(),
            asker,
            service,
            deadline: Instant::now() + PATIENCE,
        })
    }

    /// Gets on with it. Returns the answer once it is there.
    pub(super) fn handle(&mut self, buffer: &mut [u8]) -> Result<Option<&[u8]>, Broken> {
        if self.connecting {
            match getsockopt(&*self.host, sockopt::SocketError) {
                Ok(0) => self.connecting = false,
                _ => return Err(Broken),
            }
        }
        if self.sent < self.request.len() {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.host.as_raw_fd(), &self.request[self.sent..], flags) {
                Ok(n) => self.sent += n,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return Err(Broken),
            }
            if self.sent == self.request.len() {
                self.host.want(EpollFlags::EPOLLIN);
            }
            return Ok(None);
        }
        match recv(self.host.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(Broken),
            Ok(n) => self.answer.extend_from_slice(&buffer[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return Err(Broken),
        }
        let Some((prefix, rest)) = self.answer.split_first_chunk::<2>() else {
            return Ok(None);
        };
        Ok(rest.get(..u16::from_be_bytes(*prefix).into()))
    }
}
