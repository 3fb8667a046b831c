//! The host's side of forwards: services that the guest reaches at places of its own, each
//! connection over a vsock connection of its own.
//!
//! One process serves all of them, with two threads for each connection. It holds nothing but
//! its listeners, and has no privilege but to connect to any socket that it was told of.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, setsid};
use runcvm_protocol::{Forward, WORKLOAD_PORT};
use rustix::thread::CapabilitySet;

use super::privileges::{self, NOBODY};
use super::spec::{ForwardSpec, ForwardTo};
use super::watcher::close_all_but;

/// Vsock ports of the host from here on, one for each forward.
const FIRST_PORT: u32 = WORKLOAD_PORT + 1;

/// Greatest number of connections at a time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 512;

/// How long a service has to answer a datagram.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a TCP connection may take to be made.
const CONNECT: Duration = Duration::from_secs(30);

/// Bytes of a thread's stack.
const STACK: usize = 64 * 1024;

/// Bytes copied in one go.
const CHUNK: usize = 16 * 1024;

/// What the guest is told of the forwards.
pub(crate) fn for_guest(specs: &[ForwardSpec]) -> Vec<Forward> {
    let ports = FIRST_PORT..;
    specs
        .iter()
        .zip(ports)
        .map(|(spec, port)| Forward {
            at: spec.at.clone(),
            port,
        })
        .collect()
}

/// The process that serves the forwards; killed when dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// None once it has ended and was waited for.
    pid: Option<Pid>,
}

impl Forwarder {
    /// Starts the process; `None` if there is nothing to forward. `sockets` is what paths of
    /// sockets for the guest's connections begin with. Must be called while this process has
    /// one thread.
    pub(crate) fn start(sockets: &Path, specs: &[ForwardSpec]) -> io::Result<Option<Self>> {
        if specs.is_empty() {
            return Ok(None);
        }
        let services: Vec<_> = specs
            .iter()
            .zip(FIRST_PORT..)
            .map(|(spec, port)| Ok((listen(sockets, port)?, spec.to.clone())))
            .collect::<io::Result<_>>()?;
        let parent = nix::unistd::getpid();
        // SAFETY: the process has one thread, so no lock is held by a thread that the child
        // lacks; the child never returns from `serve`.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Some(Self { pid: Some(child) })),
            ForkResult::Child => serve(services, parent),
        }
    }

    /// Its process ID, unless it was waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        u32::try_from(self.pid?.as_raw()).ok()
    }

    /// It has ended, which it never should.
    pub(crate) fn has_ended(&mut self) -> bool {
        if let Some(pid) = self.pid
            && !matches!(
                waitpid(pid, Some(WaitPidFlag::WNOHANG)),
                Ok(WaitStatus::StillAlive)
            )
        {
            self.pid = None;
        }
        self.pid.is_none()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // It is our unreaped child, so the PID is still its own.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// Listens where the machine connects for `port` of the host.
pub(crate) fn listen(sockets: &Path, port: u32) -> io::Result<UnixListener> {
    let mut path = sockets.as_os_str().to_owned();
    path.push(format!("_{port}"));
    let listener = UnixListener::bind(&path)?;
    if privileges::can_become_nobody() {
        std::os::unix::fs::chown(&path, Some(NOBODY), None)?;
    }
    Ok(listener)
}

fn serve(services: Vec<(UnixListener, ForwardTo)>, parent: Pid) -> ! {
    let shut_in = || -> io::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended before the line above.
        if getppid() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        SigSet::empty().thread_set_mask()?;
        setsid()?;
        prctl::set_name(c"runcvm-forward")?;
        let mut kept: Vec<_> = services.iter().map(|(l, _)| l.as_raw_fd()).collect();
        kept.sort_unstable();
        close_all_but(&kept);
        privileges::keep_only(CapabilitySet::DAC_OVERRIDE)
    };
    if shut_in().is_ok() {
        let connections = Arc::new(AtomicUsize::new(0));
        let acceptors: Vec<_> = services
            .into_iter()
            .filter_map(|(listener, to)| {
                let connections = Arc::clone(&connections);
                spawn(move || accept(&listener, &to, &connections)).ok()
            })
            .collect();
        for acceptor in acceptors {
            let _ = acceptor.join();
        }
    }
    // SAFETY: ends the process without running exit handlers, which are the launcher's.
    unsafe { libc::_exit(1) }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(STACK).spawn(work)
}

fn accept(listener: &UnixListener, to: &ForwardTo, connections: &Arc<AtomicUsize>) {
    loop {
        let Ok((guest, _)) = listener.accept() else {
            // No descriptor is left, until some connection ends.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let place = Place::take(connections);
        let to = to.clone();
        if let Some(place) = place {
            let _ = spawn(move || {
                // Whatever goes wrong, the guest sees its connection end.
                let _ = carry(&guest, &to);
                drop(place);
            });
        }
    }
}

/// One of the places for connections, until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(connections));
        (connections.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects `guest` to what it wants, until both directions have ended.
fn carry(guest: &UnixStream, to: &ForwardTo) -> io::Result<()> {
    match to {
        ForwardTo::Unix(path) => {
            let service = UnixStream::connect(path)?;
            copy_both(guest, &service, UnixStream::try_clone, UnixStream::shutdown)
        }
        ForwardTo::Tcp(address) => {
            let service = TcpStream::connect_timeout(address, CONNECT)?;
            copy_both(guest, &service, TcpStream::try_clone, TcpStream::shutdown)
        }
        ForwardTo::Udp(address) => answer_datagrams(guest, *address),
    }
}

/// Copies both directions; each ends by itself.
fn copy_both<S>(
    guest: &UnixStream,
    service: &S,
    clone: impl Fn(&S) -> io::Result<S>,
    shutdown: impl Fn(&S, Shutdown) -> io::Result<()> + Send + Copy + 'static,
) -> io::Result<()>
where
    S: Send + 'static,
    for<'a> &'a S: Read + Write,
{
    let (from_guest, to_service) = (guest.try_clone()?, clone(service)?);
    let there = spawn(move || {
        let complete = copy(&from_guest, &to_service).is_ok();
        let _ = shutdown(&to_service, Shutdown::Write);
        if !complete {
            let _ = from_guest.shutdown(Shutdown::Read);
        }
    })?;
    let complete = copy(service, guest).is_ok();
    let _ = guest.shutdown(Shutdown::Write);
    if !complete {
        let _ = shutdown(service, Shutdown::Read);
    }
    let _ = there.join();
    Ok(())
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Sends each datagram of `guest` and returns its answer, both behind their lengths.
fn answer_datagrams(mut guest: &UnixStream, to: SocketAddr) -> io::Result<()> {
    guest.set_read_timeout(Some(ANSWER))?;
    guest.set_write_timeout(Some(ANSWER))?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let service = UdpSocket::bind(any)?;
    service.connect(to)?;
    service.set_read_timeout(Some(ANSWER))?;
    let mut buffer = vec![0; 2 + usize::from(u16::MAX)];
    loop {
        guest.read_exact(&mut buffer[..2])?;
        let length = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        guest.read_exact(&mut buffer[..length])?;
        service.send(&buffer[..length])?;
        let length = service.recv(&mut buffer[2..])?;
        let prefix = u16::try_from(length).expect("the buffer is no longer");
        buffer[..2].copy_from_slice(&prefix.to_be_bytes());
        guest.write_all(&buffer[..2 + length])?;
    }
}

#[cfg(test)]
mod tests;
