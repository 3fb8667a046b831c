//! Two streams that are one: what arrives on either leaves on the other.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, getsockopt, recv, send, shutdown, sockopt};

use crate::events::Watched;

/// Which of a link's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Guest,
    Host,
}

/// A connection of the guest and the one that carries it to the host.
#[derive(Debug)]
pub(super) struct Link {
    guest: Stream,
    host: Stream,
    /// The connection with the host is not there yet.
    connecting: bool,
}

/// The link is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

#[derive(Debug)]
struct Stream {
    socket: Watched<OwnedFd>,
    /// Nothing more comes from it.
    ended: bool,
    /// Nobody is at its other end.
    hung_up: bool,
    /// What it did not take yet.
    unsent: Vec<u8>,
    sent: usize,
}

impl Link {
    /// Links `guest` with `host`, whose connection was begun. Neither blocks.
    pub(super) fn new(guest: Watched<OwnedFd>, host: Watched<OwnedFd>) -> Self {
        let mut link = Self {
            guest: Stream::new(guest),
            host: Stream::new(host),
            connecting: true,
        };
        link.wait();
        link
    }

    /// Does what can be done about `events` on one of its streams; `buffer` is what bytes go
    /// through.
    pub(super) fn handle(
        &mut self,
        side: Side,
        events: EpollFlags,
        buffer: &mut [u8],
    ) -> Result<(), Broken> {
        if self.connecting && side == Side::Host {
            match getsockopt(&*self.host.socket, sockopt::SocketError) {
                Ok(0) => self.connecting = false,
                _ => return Err(Broken),
            }
        }
        let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let (from, to) = match side {
            Side::Guest => (&mut self.guest, &mut self.host),
            Side::Host => (&mut self.host, &mut self.guest),
        };
        from.hung_up |= events.intersects(gone);
        if events.contains(EpollFlags::EPOLLOUT) {
            from.flush(to.ended)?;
        }
        if !self.connecting && to.unsent.is_empty() {
            from.pump(to, buffer)?;
        }
        if self.guest.leads_nowhere(&self.host) || self.host.leads_nowhere(&self.guest) {
            return Err(Broken);
        }
        self.wait();
        Ok(())
    }

    fn wait(&mut self) {
        let connecting = self.connecting;
        self.guest.wait(self.host.unsent.is_empty() && !connecting);
        self.host.wait(self.guest.unsent.is_empty());
        if connecting {
            self.host.socket.want(EpollFlags::EPOLLOUT);
        }
    }
}

impl Stream {
    fn new(socket: Watched<OwnedFd>) -> Self {
        Self {
            socket,
            ended: false,
            hung_up: false,
            unsent: Vec::new(),
            sent: 0,
        }
    }

    /// Carries what has arrived, a buffer at most, to `to`.
    fn pump(&mut self, to: &mut Self, buffer: &mut [u8]) -> Result<(), Broken> {
        if self.ended {
            return Ok(());
        }
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.ended = true;
                to.finish()
            }
            Ok(n) => to.send(&buffer[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Broken),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let n = self.send_some(bytes)?;
        if n < bytes.len() {
            self.unsent = bytes[n..].to_vec();
            self.sent = 0;
        }
        Ok(())
    }

    /// Sends what waits; then the stream ends here too if its other half `ended`.
    fn flush(&mut self, ended: bool) -> Result<(), Broken> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        self.sent += self.send_some(&self.unsent[self.sent..])?;
        if self.sent == self.unsent.len() {
            // Idle streams hold no memory.
            self.unsent = Vec::new();
            if ended {
                self.finish()?;
            }
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8]) -> Result<usize, Broken> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(self.socket.as_raw_fd(), bytes, flags) {
            Ok(n) => Ok(n),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(_) => Err(Broken),
        }
    }

    /// Nothing more is sent on it.
    fn finish(&self) -> Result<(), Broken> {
        shutdown(self.socket.as_raw_fd(), Shutdown::Write).map_err(|_| Broken)
    }

    /// Nothing can come from it any more that `other` still wants, nor go to it.
    fn leads_nowhere(&self, other: &Self) -> bool {
        let delivered = self.ended && other.unsent.is_empty();
        let back = other.ended && self.unsent.is_empty();
        delivered && (back || self.hung_up)
    }

    /// Waits for what can be done: for bytes only if they `may` be read.
    fn wait(&mut self, may: bool) {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, may && !self.ended);
        interest.set(
            EpollFlags::EPOLLOUT,
            !self.unsent.is_empty() && !self.hung_up,
        );
        if !self.hung_up {
            // Besides, that the other end goes, which is told to whoever waits for anything.
            interest |= EpollFlags::EPOLLERR;
        }
        self.socket.want(interest);
    }
}

/// Makes a socket one that does not block.
pub(super) fn unblock(socket: OwnedFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(socket)
}
