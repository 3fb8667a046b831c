//! The event loop: the workload's session, a session for each further command, and all
//! children.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockFlag, accept4};
use runcvm_protocol::ExitStatus;

use crate::connection::Connection;
use crate::events::{FileOf, Token, Watched};
use crate::kernel_log;
use crate::process::spawn::Nursery;
use crate::rootdir::RootDir;
use crate::session::{End, Session, WORKLOAD};

/// How long the other sessions may take to tell their ends after the workload's.
const FAREWELL: Duration = Duration::from_secs(1);

/// Events that are taken at a time.
const EVENTS: usize = 64;

/// How the workload's session has ended, and its connection if the host is still there.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) connection: Option<Watched<Connection>>,
}

/// Serves all sessions.
#[derive(Debug)]
pub(crate) struct Agent {
    epoll: Rc<Epoll>,
    children: Watched<SignalFd>,
    listener: Option<Watched<OwnedFd>>,
    sessions: BTreeMap<u32, Session>,
    next: u32,
    root: RootDir,
    nursery: Nursery,
}

impl Agent {
    /// An agent without sessions. From now on SIGCHLD is blocked and SIGPIPE ignored.
    pub(crate) fn new(root: RootDir, nursery: Nursery) -> Result<Self> {
        let epoll = Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let set = SigSet::from(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&set, flags).context("cannot wait for children")?;
        let mut children = Watched::new(children, &epoll, own(FileOf::Children));
        children.want(EpollFlags::EPOLLIN);
        Ok(Self {
            epoll,
            children,
            listener: None,
            sessions: BTreeMap::new(),
            next: WORKLOAD,
            root,
            nursery,
        })
    }

    /// What children are started with.
    pub(crate) fn nursery(&mut self) -> &mut Nursery {
        &mut self.nursery
    }

    /// Adds a session; the first is the workload's.
    pub(crate) fn add(&mut self, connection: Connection) -> &mut Session {
        let id = self.next;
        self.next += 1;
        self.sessions
            .entry(id)
            .or_insert_with(|| Session::new(id, connection, &self.epoll))
    }

    /// Takes connections of the host from `listener`, each for a command.
    pub(crate) fn listen(&mut self, listener: OwnedFd) {
        let mut listener = Watched::new(listener, &self.epoll, own(FileOf::Listener));
        listener.want(EpollFlags::EPOLLIN);
        self.listener = Some(listener);
    }

    /// Serves until the workload has ended. Returns how, and its connection.
    pub(crate) fn run(mut self) -> Result<Ended> {
        for session in self.sessions.values_mut() {
            session.settle();
        }
        while self.workload_end().is_none() {
            self.turn(None)?;
        }
        let farewell = Instant::now() + FAREWELL;
        while self.has_running_commands() && Instant::now() < farewell {
            self.turn(Some(farewell))?;
        }
        let workload = self.sessions.remove(&WORKLOAD);
        let end = workload
            .as_ref()
            .and_then(Session::end)
            .unwrap_or(End::Abandoned);
        Ok(Ended {
            end,
            connection: workload.and_then(Session::into_connection),
        })
    }

    fn workload_end(&self) -> Option<End> {
        self.sessions.get(&WORKLOAD)?.end()
    }

    /// A command besides the workload is not done with.
    fn has_running_commands(&self) -> bool {
        self.sessions
            .iter()
            .any(|(&id, session)| id != WORKLOAD && session.is_followed())
    }

    /// Waits for events and handles them; until `limit` at most.
    fn turn(&mut self, limit: Option<Instant>) -> Result<()> {
        let deadlines = self.sessions.values().filter_map(Session::deadline);
        let deadline = deadlines.chain(limit).min();
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, timeout(deadline)) {
            Err(Errno::EINTR) => 0,
            result => result.context("cannot wait for events")?,
        };
        for event in &events[..count] {
            if let Ok(token) = Token::try_from(event.data()) {
                self.handle(token);
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let ids: Vec<_> = self.sessions.keys().copied().collect();
            for id in ids {
                self.settle(id);
            }
        }
        Ok(())
    }

    fn handle(&mut self, token: Token) {
        match token.file {
            FileOf::Children => self.reap(),
            FileOf::Listener => self.accept(),
            file => {
                // Of an event of this turn the session may be gone already.
                if let Some(session) = self.sessions.get_mut(&token.session) {
                    session.handle(file, &self.root, &self.nursery);
                    self.settle(token.session);
                }
            }
        }
    }

    fn settle(&mut self, id: u32) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.settle();
        if id != WORKLOAD && session.is_over() {
            self.sessions.remove(&id);
            // Files that were too many may be few enough now.
            if let Some(listener) = &mut self.listener {
                listener.want(EpollFlags::EPOLLIN);
            }
        }
    }

    /// Collects all children that have ended: those of sessions, and any that became ours.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        while let Some((pid, status)) = next_child() {
            let of_pid = |(_, session): &(&u32, &mut Session)| session.pid() == Some(pid);
            if let Some((&id, session)) = self.sessions.iter_mut().find(of_pid) {
                session.exited(status);
                self.settle(id);
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(listener.as_raw_fd(), flags) {
            Ok(socket) => {
                // SAFETY: the system call has just made this descriptor, and nobody else
                // knows it.
                let socket = unsafe { std::os::fd::FromRawFd::from_raw_fd(socket) };
                self.add(Connection::new(socket)).settle();
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(e) => {
                kernel_log::error(&format!("cannot take a connection: {e}"));
                // It would fail again at once; until a session ends, nothing changes.
                listener.want(EpollFlags::empty());
            }
        }
    }
}

fn own(file: FileOf) -> Token {
    Token {
        session: u32::MAX,
        file,
    }
}

fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else {
        return EpollTimeout::NONE;
    };
    // A millisecond more, as what is left is rounded down.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

/// A child that has ended, and how.
fn next_child() -> Option<(i32, ExitStatus)> {
    let mut status = 0;
    // Not by nix, which knows no real-time signals.
    // SAFETY: the status is valid for writing.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let byte = |number: i32| u8::try_from(number & 0xff).expect("masked to a byte");
    let status = match libc::WIFSIGNALED(status) {
        true => ExitStatus::Signal(byte(libc::WTERMSIG(status))),
        false => ExitStatus::Code(byte(libc::WEXITSTATUS(status))),
    };
    (pid > 0).then_some((pid, status))
}

#[cfg(test)]
mod tests;
