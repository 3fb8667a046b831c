//! Places of the guest at which connections arrive for the host, each of which goes on over a
//! vsock connection of its own.
//!
//! A process outside the workload's PID namespace serves all of them, with one thread: it
//! neither holds up the agent's sessions nor goes with the workload's processes.

mod datagram;
mod link;
mod server;

use std::ffi::OsStr;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{ForkResult, fork, setsid};
use runcvm_protocol::{Forward, ForwardAt};

use self::server::Server;
use crate::process::{STATUS_FAILED, limits};
use crate::rootdir::RootDir;
use crate::{kernel_log, marks, mounts, survive, vsock};

/// Where connections arrive and where they go.
#[derive(Debug)]
struct Service {
    listener: Listener,
    /// The vsock port of the host.
    port: u32,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// Forwards on their way to be served.
#[derive(Debug)]
pub(crate) struct Forwards<'a> {
    wanted: &'a [Forward],
    /// For each, the socket of the root filesystem in whose place it will be.
    originals: Vec<Option<FileStat>>,
    services: Vec<Service>,
}

impl<'a> Forwards<'a> {
    /// Looks at what is in their places, which other mounts may hide later.
    pub(crate) fn new(wanted: &'a [Forward], root: &RootDir) -> Self {
        let original = |forward: &Forward| {
            let ForwardAt::Unix(path) = &forward.at else {
                return None;
            };
            let there = root.open(Path::new(OsStr::from_bytes(path)), OFlag::O_PATH);
            let found = fstat(there.ok()?).ok()?;
            let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
            (kind == SFlag::S_IFSOCK).then_some(found)
        };
        Self {
            wanted,
            originals: wanted.iter().map(original).collect(),
            services: Vec::new(),
        }
    }

    /// Puts Unix sockets in their places, over all other mounts.
    pub(crate) fn mount_sockets(&mut self, root: &RootDir) -> Result<()> {
        for (forward, original) in self.wanted.iter().zip(&self.originals) {
            if let ForwardAt::Unix(path) = &forward.at {
                let path = Path::new(OsStr::from_bytes(path));
                let listener = mounts::mount_socket(root, path, original.as_ref())?;
                listener.set_nonblocking(true)?;
                self.services.push(Service {
                    listener: Listener::Unix(listener),
                    port: forward.port,
                });
            }
        }
        Ok(())
    }

    /// Listens on the network too, which must be up, and starts the process that serves all.
    /// `procfs` is the proc filesystem of this process's PID namespace.
    pub(crate) fn start(mut self, procfs: &RootDir) -> Result<()> {
        for forward in self.wanted {
            let listener = match forward.at {
                ForwardAt::Unix(_) => continue,
                ForwardAt::Tcp(at) => TcpListener::bind(at).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(Listener::Tcp(listener))
                }),
                ForwardAt::Udp(at) => UdpSocket::bind(at).and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(Listener::Udp(socket))
                }),
            };
            self.services.push(Service {
                listener: listener.with_context(|| format!("cannot listen at {:?}", forward.at))?,
                port: forward.port,
            });
        }
        if self.services.is_empty() {
            return Ok(());
        }
        // SAFETY: there is one thread, so the child may do all that the parent may.
        match unsafe { fork() }.context("cannot start the forwarder")? {
            ForkResult::Parent { .. } => Ok(()),
            ForkResult::Child => serve(self.services, procfs),
        }
    }
}

/// Serves to the end of the machine.
fn serve(services: Vec<Service>, procfs: &RootDir) -> ! {
    marks::disable();
    let _ = setsid();
    survive::to_the_end(b"@runcvm-forward\0", procfs);
    limits::raise();
    close_others(&services);
    let ended = Server::new(services, vsock::start_connect).and_then(Server::run);
    if let Err(e) = ended {
        kernel_log::error(&format!("forwards end: {e:#}"));
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(STATUS_FAILED.into()) }
}

/// Closes what the parent has open: a connection, for one, ends only when nobody holds it.
fn close_others(services: &[Service]) {
    let standard = [0, 1, 2];
    let own = services
        .iter()
        .map(|service| service.listener.as_fd().as_raw_fd());
    let mut kept: Vec<RawFd> = own.chain(kernel_log::fd()).chain(standard).collect();
    kept.sort_unstable();
    let after = kept.iter().map(|fd| fd + 1);
    let before = kept[1..].iter().map(|fd| fd - 1).chain([RawFd::MAX]);
    for (first, last) in after.zip(before).filter(|(first, last)| first <= last) {
        // SAFETY: takes numbers only. What owns these descriptors is the parent's, and is
        // never used or dropped in this process.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

#[cfg(test)]
mod tests;
