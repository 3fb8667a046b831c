//! Places of the guest at which connections arrive for the host, each of which goes on over a
//! vsock connection of its own.
//!
//! A process outside the workload's PID namespace serves all of them, with one thread: it
//! neither holds up the agent's sessions nor goes with the workload's processes.

mod datagram;
mod link;
mod redirect;
mod server;

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::unistd::{ForkResult, fork, setsid};
use runcvm_protocol::{Forward, ForwardAt};

use self::redirect::Redirect;
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

impl Listener {
    fn tcp(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    fn udp(at: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Udp(socket))
    }
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
    /// Lead to services that are not where the guest looks for them.
    redirects: Vec<Redirect>,
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
            redirects: Vec::new(),
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
        self.listen()?;
        if self.services.is_empty() {
            return Ok(());
        }
        // SAFETY: there is one thread, so the child may do all that the parent may.
        match unsafe { fork() }.context("cannot start the forwarder")? {
            ForkResult::Parent { .. } => Ok(()),
            ForkResult::Child => serve(self.services, &self.redirects, procfs),
        }
    }

    /// Listens on the network.
    fn listen(&mut self) -> Result<()> {
        for forward in self.wanted {
            let (at, bind): (_, fn(SocketAddr) -> io::Result<Listener>) = match forward.at {
                ForwardAt::Unix(_) => continue,
                ForwardAt::Tcp(at) => (at, Listener::tcp),
                ForwardAt::Udp(at) => (at, Listener::udp),
            };
            let listener = match self.listen_elsewhere(at, bind) {
                Some(listener) => listener,
                None => bind(at).with_context(|| format!("cannot listen at {:?}", forward.at))?,
            };
            self.services.push(Service {
                listener,
                port: forward.port,
            });
        }
        Ok(())
    }

    /// A listener at another port than that of `at`, which leads to it, where the port is to
    /// stay free and the kernel can do so.
    fn listen_elsewhere(
        &mut self,
        at: SocketAddr,
        bind: fn(SocketAddr) -> io::Result<Listener>,
    ) -> Option<Listener> {
        let at = redirect::free_address(at)?;
        let redirected = || -> Result<_> {
            let listener = bind((*at.ip(), 0).into())?;
            Ok((Redirect::new(at, &listener)?, listener))
        };
        match redirected() {
            Ok((redirect, listener)) => {
                self.redirects.push(redirect);
                Some(listener)
            }
            Err(e) => {
                // It works all the same, unless the workload wants the port.
                kernel_log::error(&format!("cannot leave the port of {at} free: {e:#}"));
                None
            }
        }
    }
}

/// Serves to the end of the machine.
fn serve(services: Vec<Service>, redirects: &[Redirect], procfs: &RootDir) -> ! {
    marks::disable();
    let _ = setsid();
    survive::to_the_end(b"@runcvm-forward\0", procfs);
    limits::raise();
    close_others(&services, redirects);
    let ended = Server::new(services, vsock::start_connect).and_then(Server::run);
    if let Err(e) = ended {
        kernel_log::error(&format!("forwards end: {e:#}"));
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(STATUS_FAILED.into()) }
}

/// Closes what the parent has open: a connection, for one, ends only when nobody holds it.
fn close_others(services: &[Service], redirects: &[Redirect]) {
    let standard = [0, 1, 2];
    let listeners = services.iter().map(|service| service.listener.as_fd());
    let own = listeners.chain(redirects.iter().flat_map(Redirect::fds));
    let own = own.map(|fd| fd.as_raw_fd());
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
