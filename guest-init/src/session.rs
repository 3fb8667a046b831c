//! The guest's side of a session: one process, its streams, its end, and the connection on
//! which the host follows them.
//!
//! A host that hangs up leaves its process running, as docker does: what it writes is then
//! read and forgotten, and its stdin ends.

mod input;
mod output;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};
use runcvm_protocol::{ExitStatus, Output, Process, ToGuest, ToHost};

use self::input::Input;
use self::output::OutputStream;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::events::{FileOf, Token, Watched};
use crate::kernel_log;
use crate::process::report::ReportReader;
use crate::process::spawn::{Child, Nursery, Streams, spawn};
use crate::process::{Command, StartError, terminal};
use crate::rootdir::RootDir;

/// How long a stream may stay open after its process has ended, held by children that it
/// left behind. What was written until then always arrives. Docker waits as long.
const LINGER: Duration = Duration::from_secs(2);

/// No more output is read from a process while this much waits to be sent.
const MAX_BACKLOG: usize = 128 * 1024;

/// The number of the workload's session.
pub(crate) const WORKLOAD: u32 = 0;

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended like this, and all its output is queued. The host is told, but of
    /// the workload's end only when its filesystems are clean.
    Exited(ExitStatus),
    /// The process could not be started; the host is told.
    Failed,
    /// The host hung up before it said what to start.
    Abandoned,
}

/// One process and its connection.
#[derive(Debug)]
pub(crate) struct Session {
    id: u32,
    epoll: Rc<Epoll>,
    connection: Option<Watched<Connection>>,
    /// What was forked and has not reported yet.
    starting: Option<Starting>,
    process: Option<Running>,
    /// What it keeps right.
    clock: Option<Clock>,
    end: Option<End>,
}

#[derive(Debug)]
struct Starting {
    report: Watched<ReportReader>,
    command: Command,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    stdin: Input,
    outputs: Vec<OutputStream>,
    terminal: Option<OwnedFd>,
    /// How it ended, and when.
    exit: Option<(ExitStatus, Instant)>,
}

impl Session {
    /// A session on `connection`, without a process yet.
    pub(crate) fn new(id: u32, connection: Connection, epoll: &Rc<Epoll>) -> Self {
        let file = FileOf::Connection;
        let token = Token { session: id, file };
        Self {
            id,
            epoll: Rc::clone(epoll),
            connection: Some(Watched::new(connection, epoll, token)),
            starting: None,
            process: None,
            clock: None,
            end: None,
        }
    }

    /// Keeps `clock` right by its host.
    pub(crate) fn keep(&mut self, clock: Clock) {
        self.clock = Some(clock);
    }

    /// Takes charge of a child that runs `command`.
    pub(crate) fn adopt(&mut self, command: Command, child: Child) {
        self.follow(command, child.pid.as_raw(), child.report);
        let Streams {
            stdin,
            stdout,
            stderr,
            terminal,
        } = child.streams;
        let watch = |fd: OwnedFd, file| self.watch(File::from(fd), file);
        let stdin = Input::new(stdin.map(|fd| watch(fd, FileOf::Stdin)));
        let mut outputs = vec![OutputStream::new(
            Output::Stdout,
            watch(stdout, FileOf::Stdout),
        )];
        outputs
            .extend(stderr.map(|fd| OutputStream::new(Output::Stderr, watch(fd, FileOf::Stderr))));
        if let Some(process) = &mut self.process {
            process.stdin = stdin;
            process.outputs = outputs;
            process.terminal = terminal;
        }
    }

    /// Follows a process that has its streams elsewhere.
    pub(crate) fn follow(&mut self, command: Command, pid: i32, report: ReportReader) {
        self.starting = Some(Starting {
            report: self.watch(report, FileOf::Report),
            command,
        });
        self.process = Some(Running {
            pid,
            stdin: Input::new(None),
            outputs: Vec::new(),
            terminal: None,
            exit: None,
        });
    }

    fn watch<F: AsFd>(&self, file: F, of: FileOf) -> Watched<F> {
        let token = Token {
            session: self.id,
            file: of,
        };
        Watched::new(file, &self.epoll, token)
    }

    /// The process that it waits for.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.process
            .as_ref()
            .filter(|process| process.exit.is_none())
            .map(|process| process.pid)
    }

    /// How it ended, once nothing is left to be read of its process.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// It has ended, and the host has read that and hung up. It is for the host to do so
    /// first, since a connection that is closed with words unread may lose its last ones.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some() && self.connection.is_none()
    }

    /// The host follows a process of it.
    pub(crate) fn is_followed(&self) -> bool {
        self.process.is_some() && self.connection.is_some()
    }

    /// Queues a message for the host.
    pub(crate) fn tell(&mut self, message: &ToHost) {
        if let Some(connection) = &mut self.connection {
            connection.queue(message);
        }
    }

    /// Gives up the connection.
    pub(crate) fn into_connection(self) -> Option<Watched<Connection>> {
        self.connection
    }

    /// Does what can be done about one of its files.
    pub(crate) fn handle(&mut self, file: FileOf, root: &RootDir, nursery: &Nursery) {
        match file {
            FileOf::Connection => self.receive(root, nursery),
            FileOf::Report => self.read_report(),
            FileOf::Stdin => self.feed(),
            FileOf::Stdout => self.drain(Output::Stdout),
            FileOf::Stderr => self.drain(Output::Stderr),
            FileOf::Children | FileOf::Listener => {}
        }
    }

    /// Its process has ended.
    pub(crate) fn exited(&mut self, status: ExitStatus) {
        // A quick process may have ended before its report was read.
        self.read_report();
        if let Some(process) = &mut self.process {
            process.exit = Some((status, Instant::now()));
            process.stdin.close();
            for output in &mut process.outputs {
                output.process_ended();
            }
        }
    }

    /// Moves on: sends what is queued, ends if nothing is left to do, and waits for what can
    /// be done next. To be called after each event and each [`Self::deadline`].
    pub(crate) fn settle(&mut self) {
        self.end_if_done();
        if let Some(question) = self.clock.as_mut().and_then(Clock::question) {
            self.tell(&question);
        }
        if let Some(connection) = &mut self.connection
            && connection.flush().is_err()
        {
            self.hang_up();
        }
        self.wait_for_more();
    }

    /// When to settle even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let clock = self.clock.as_ref().and_then(Clock::deadline);
        let process = self.process.as_ref().filter(|_| self.end.is_none());
        let exit = process.and_then(|process| process.exit);
        // Once it has passed, only the host's readiness for more can be waited for.
        let linger = exit
            .map(|(_, at)| at + LINGER)
            .filter(|deadline| *deadline > Instant::now());
        clock.into_iter().chain(linger).min()
    }

    fn receive(&mut self, root: &RootDir, nursery: &Nursery) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut open = matches!(connection.receive(), Ok(true));
        while let Some(connection) = &mut self.connection {
            match connection.next() {
                Ok(Some(message)) => self.obey(message, root, nursery),
                Ok(None) => break,
                Err(e) => {
                    kernel_log::error(&format!("a session's host cannot be understood: {e}"));
                    open = false;
                    break;
                }
            }
        }
        if !open {
            self.hang_up();
        }
    }

    fn obey(&mut self, message: ToGuest, root: &RootDir, nursery: &Nursery) {
        match (message, &mut self.process) {
            (ToGuest::Start(wanted), None) if self.end.is_none() => {
                self.start(&wanted, root, nursery);
            }
            (ToGuest::Stdin(data), Some(process)) => {
                if process.stdin.push(data).is_err() {
                    kernel_log::error("a session's host sends more stdin than its window");
                    self.hang_up();
                } else {
                    self.feed();
                }
            }
            (ToGuest::StdinEnd, Some(process)) => {
                process.stdin.end();
                self.feed();
            }
            (ToGuest::Consumed(which, bytes), Some(process)) => {
                for output in process.outputs.iter_mut().filter(|output| output.is(which)) {
                    output.consumed(bytes);
                }
            }
            (ToGuest::OutputClosed(which), Some(process)) if process.terminal.is_none() => {
                let mut outputs = process.outputs.iter_mut();
                let end = outputs
                    .find(|output| output.is(which))
                    .and_then(OutputStream::close);
                if let Some(end) = end {
                    self.tell(&end);
                }
            }
            (ToGuest::Time { unix_ns }, _) => {
                if let Some(clock) = &mut self.clock {
                    clock.answer(unix_ns);
                }
            }
            (ToGuest::Resize(size), Some(process)) => {
                if let Some(terminal) = &process.terminal {
                    let _ = terminal::resize(terminal, size);
                }
            }
            (ToGuest::Signal(signal), Some(process)) if process.exit.is_none() => {
                // SAFETY: takes numbers only. The process is a child that was not waited
                // for, or PID 1; nobody else can have its number.
                unsafe { libc::kill(process.pid, signal.into()) };
            }
            _ => {}
        }
    }

    fn start(&mut self, wanted: &Process, root: &RootDir, nursery: &Nursery) {
        let started = Command::new(wanted, root).and_then(|mut command| {
            command.inherit_limits(&nursery.limits);
            let child = spawn(&command, wanted, nursery)?;
            Ok((command, child))
        });
        match started {
            Ok((command, child)) => self.adopt(command, child),
            Err(e) => self.fail(e),
        }
    }

    /// Tells the host why there is no process.
    pub(crate) fn fail(&mut self, error: StartError) {
        self.starting = None;
        self.process = None;
        self.end = Some(End::Failed);
        let StartError { status, message } = error;
        self.tell(&ToHost::Failed { status, message });
    }

    fn read_report(&mut self) {
        let Some(starting) = &mut self.starting else {
            return;
        };
        let Starting { report, command } = starting;
        match report.read(command) {
            None => {}
            Some(Ok(pid)) => {
                self.starting = None;
                self.tell(&ToHost::Started { pid });
            }
            Some(Err(e)) => self.fail(e),
        }
    }

    fn feed(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let consumed = process.stdin.feed();
        if consumed > 0 {
            self.tell(&ToHost::StdinConsumed(consumed));
        }
    }

    fn drain(&mut self, which: Output) {
        let Some(process) = &mut self.process else {
            return;
        };
        let output = process.outputs.iter_mut().find(|output| output.is(which));
        if let Some(message) = output.and_then(|output| output.read()) {
            self.tell(&message);
        }
    }

    /// Lets the host go. The process does not notice, but for the end of its stdin.
    fn hang_up(&mut self) {
        self.connection = None;
        match &mut self.process {
            None => self.end = self.end.or(Some(End::Abandoned)),
            Some(process) => {
                process.stdin.end();
                process.stdin.feed();
                for output in &mut process.outputs {
                    output.forget();
                }
            }
        }
    }

    fn end_if_done(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some((status, at)) = process.exit.filter(|_| self.end.is_none()) else {
            return;
        };
        if at.elapsed() >= LINGER {
            let late: Vec<_> = process
                .outputs
                .iter_mut()
                .filter_map(OutputStream::cut)
                .collect();
            for message in late {
                self.tell(&message);
            }
        }
        if let Some(process) = &self.process
            && process.outputs.iter().all(OutputStream::has_ended)
        {
            self.end = Some(End::Exited(status));
            if self.id != WORKLOAD {
                self.tell(&ToHost::Exited(status));
            }
        }
    }

    fn wait_for_more(&mut self) {
        let mut backlog = 0;
        if let Some(connection) = &mut self.connection {
            backlog = connection.backlog();
            let mut interest = EpollFlags::EPOLLIN;
            interest.set(EpollFlags::EPOLLOUT, backlog > 0);
            connection.want(interest);
        }
        if let Some(starting) = &mut self.starting {
            starting.report.want(EpollFlags::EPOLLIN);
        }
        if let Some(process) = &mut self.process {
            process.stdin.wait();
            let may_read = self.starting.is_none() && backlog < MAX_BACKLOG;
            for output in &mut process.outputs {
                output.wait(may_read);
            }
        }
    }
}
