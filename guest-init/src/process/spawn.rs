//! From a [`Command`] to a running process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use runcvm_protocol::{Limit, Process, WindowSize};

use super::child::Plan;
use super::report::{ReportReader, Reporter, report_pipe};
use super::{Command, STATUS_FAILED, StartError, terminal};
use crate::rootdir::RootDir;

/// Where children come from.
#[derive(Debug)]
pub(crate) struct Nursery {
    /// `/dev/null`.
    pub(crate) null: OwnedFd,
    /// The root of devpts, for terminals.
    pub(crate) pts: OwnedFd,
    /// Where the next process mounts its own `/proc`.
    pub(crate) proc: Option<OwnedFd>,
    /// The workload, whose mounts every other process shares.
    pub(crate) workload: Option<OwnedFd>,
    /// What processes have for limits that ask for none: the workload's.
    pub(crate) limits: Vec<Limit>,
    /// The proc filesystem of our own PID namespace.
    pub(crate) procfs: RootDir,
}

/// Our ends of a process's streams. None of them blocks.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// None with a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal, to be resized.
    pub(crate) terminal: Option<OwnedFd>,
}

/// A child that was forked and may not run its program yet.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) report: ReportReader,
    pub(crate) streams: Streams,
}

/// Starts `command` as a child. `process` says what streams it has.
pub(crate) fn spawn(
    command: &Command,
    process: &Process,
    nursery: &Nursery,
) -> Result<Child, StartError> {
    start(command, process, nursery)
        .map_err(|e| StartError::failed(format!("cannot start {}: {e}", command.name())))
}

fn start(command: &Command, process: &Process, nursery: &Nursery) -> nix::Result<Child> {
    let (streams, theirs) = match process.terminal {
        Some(size) => terminal_streams(process.stdin, size, nursery)?,
        None => pipe_streams(process.stdin, nursery)?,
    };
    let (report, reporter) = report_pipe()?;
    let plan = Plan {
        command,
        stdio: [&theirs[0], &theirs[1], &theirs[2]].map(AsRawFd::as_raw_fd),
        reporter: Reporter(reporter.as_raw_fd()),
        session: true,
        terminal: process.terminal.is_some(),
        proc: nursery.proc.as_ref().map(AsRawFd::as_raw_fd),
        join: nursery.workload.as_ref().map(AsRawFd::as_raw_fd),
        procfs: nursery.procfs.as_fd().as_raw_fd(),
    };
    // SAFETY: there is one thread, so the child may do all that the parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child,
            report,
            streams,
        }),
        ForkResult::Child => {
            plan.run();
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(STATUS_FAILED.into()) }
        }
    }
}

/// Turns this process into `command`, with `console` as its streams and `procfs` as a proc
/// filesystem. Returns only if that fails, which `reporter` has told then.
pub(crate) fn become_command(
    command: &Command,
    console: BorrowedFd<'_>,
    procfs: &RootDir,
    reporter: &OwnedFd,
) {
    Plan {
        command,
        stdio: [console.as_raw_fd(); 3],
        reporter: Reporter(reporter.as_raw_fd()),
        session: false,
        terminal: false,
        proc: None,
        join: None,
        procfs: procfs.as_fd().as_raw_fd(),
    }
    .run();
}

type Theirs = [OwnedFd; 3];

fn terminal_streams(
    stdin: bool,
    size: WindowSize,
    nursery: &Nursery,
) -> nix::Result<(Streams, Theirs)> {
    let (ours, theirs) = terminal::open(&nursery.pts, size)?;
    let streams = Streams {
        stdin: stdin.then(|| duplicate(ours.as_fd())).transpose()?,
        stdout: duplicate(ours.as_fd())?,
        stderr: None,
        terminal: Some(ours),
    };
    let copies = [duplicate(theirs.as_fd())?, duplicate(theirs.as_fd())?];
    let [second, third] = copies;
    Ok((streams, [theirs, second, third]))
}

fn pipe_streams(stdin: bool, nursery: &Nursery) -> nix::Result<(Streams, Theirs)> {
    let (their_stdin, stdin) = if stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        (read, Some(write))
    } else {
        (duplicate(nursery.null.as_fd())?, None)
    };
    let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC)?;
    for ours in stdin.iter().chain([&stdout, &stderr]) {
        fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let streams = Streams {
        stdin,
        stdout,
        stderr: Some(stderr),
        terminal: None,
    };
    Ok((streams, [their_stdin, their_stdout, their_stderr]))
}

fn duplicate(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    fd.try_clone_to_owned()
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EMFILE)))
}
