//! Sockets between the guest and its host.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};

/// Address of the host (virtio 1.2, §5.10.4).
const HOST_CID: u32 = 2;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Vsock, SockType::Stream, flags, None)
}

/// Begins to connect to `port` of the host; [`finish_connect`] waits for it.
pub(crate) fn start_connect(port: u32) -> Result<OwnedFd> {
    let socket = stream().context("the kernel has no vsock")?;
    match connect(socket.as_raw_fd(), &VsockAddr::new(HOST_CID, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(e) => {
            Err(e).with_context(|| format!("cannot connect to vsock port {port} of the host"))
        }
    }
}

/// Waits until a connection that was begun is there. The kernel gives up after 2 seconds.
pub(crate) fn finish_connect(socket: &OwnedFd) -> Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    while let Err(e) = poll(&mut fds, PollTimeout::NONE) {
        if e != Errno::EINTR {
            return Err(e).context("cannot wait for the host's vsock");
        }
    }
    match getsockopt(socket, sockopt::SocketError).context("cannot ask for the vsock's state")? {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)).context("the host does not take the vsock connection"),
    }
}

/// Listens on `port` for connections of the host.
pub(crate) fn listen_on(port: u32) -> Result<OwnedFd> {
    let socket = stream().context("the kernel has no vsock")?;
    bind(
        socket.as_raw_fd(),
        &VsockAddr::new(libc::VMADDR_CID_ANY, port),
    )
    .and_then(|()| listen(&socket, Backlog::new(BACKLOG)?))
    .with_context(|| format!("cannot listen on vsock port {port}"))?;
    Ok(socket)
}
