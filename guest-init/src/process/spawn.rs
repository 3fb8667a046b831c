//! From a [`Command`] to a running process.
//!
//! The child tells over a pipe how it got on: its process ID as it sees it, then nothing
//! more if the program runs (the pipe closes on exec), or the step that failed and why.
//! Between fork and exec it only makes system calls on memory that was made ready before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use runcvm_protocol::{BootMark, Process};

use super::{
    Command, STATUS_FAILED, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND, StartError, terminal,
};
use crate::marks;

/// Open files that a process may ask for. The kernel's own 4096 is too little for many
/// servers.
const OPEN_FILES: u64 = 1_048_576;

/// Open files that a process has before it asks, as under systemd: some programs go through
/// all that they may have.
const OPEN_FILES_AT_FIRST: u64 = 1024;

/// Where children come from.
#[derive(Debug)]
pub(crate) struct Nursery {
    /// `/dev/null`.
    pub(crate) null: OwnedFd,
    /// The root of devpts, for terminals.
    pub(crate) pts: OwnedFd,
    /// The workload, whose mounts every other process shares.
    pub(crate) workload: Option<OwnedFd>,
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

/// Raises the limit of open files to [`OPEN_FILES`] where the kernel lets it, and takes all
/// of them itself: a busy agent needs six for each process.
pub(crate) fn raise_own_limits() {
    let (_, now) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    for hard in [OPEN_FILES, now] {
        if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
            return;
        }
    }
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
        report: reporter.as_raw_fd(),
        session: true,
        terminal: process.terminal.is_some(),
        join: nursery.workload.as_ref().map(AsRawFd::as_raw_fd),
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

/// Turns this process into `command`, with `console` as its streams. Returns only if that
/// fails, which `reporter` has told then.
pub(crate) fn become_command(command: &Command, console: BorrowedFd<'_>, reporter: &OwnedFd) {
    Plan {
        command,
        stdio: [console.as_raw_fd(); 3],
        report: reporter.as_raw_fd(),
        session: false,
        terminal: false,
        join: None,
    }
    .run();
}

type Theirs = [OwnedFd; 3];

fn terminal_streams(
    stdin: bool,
    size: runcvm_protocol::WindowSize,
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

/// A pipe on which a child reports.
pub(crate) fn report_pipe() -> nix::Result<(ReportReader, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let reader = ReportReader {
        pipe: read.into(),
        bytes: [0; REPORT],
        len: 0,
    };
    Ok((reader, write))
}

/// Length of a whole report: process ID, step, step's detail and error number, four bytes
/// each.
const REPORT: usize = 16;

/// Reads what a child reports.
#[derive(Debug)]
pub(crate) struct ReportReader {
    pipe: File,
    bytes: [u8; REPORT],
    len: usize,
}

impl AsFd for ReportReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl ReportReader {
    /// The process ID that the child has in its namespace, once its program runs, or why it
    /// does not. None while that is not known.
    pub(crate) fn read(&mut self, command: &Command) -> Option<Result<u32, StartError>> {
        loop {
            match self.pipe.read(&mut self.bytes[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => break,
            }
        }
        let (words, _) = self.bytes[..self.len].as_chunks();
        let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        Some(match words[..] {
            [pid] => Ok(pid),
            [_, step, detail, errno] => Err(describe(command, step, detail, errno)),
            _ => Err(StartError::failed(format!(
                "cannot start {}: it was killed before it ran",
                command.name()
            ))),
        })
    }
}

/// What a child does between fork and exec, where it may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    Streams,
    Terminal,
    Join,
    Groups,
    User,
    Directory,
    Execute,
}

fn describe(command: &Command, step: u32, program: u32, errno: u32) -> StartError {
    let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(libc::EIO));
    let name = command.name();
    let reason = io::Error::from(errno).to_string();
    let reason = reason
        .split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let failed = |what: &str| StartError::failed(format!("cannot {what} for {name}: {reason}"));
    match step {
        _ if step == Step::Streams as u32 => failed("set up the streams"),
        _ if step == Step::Terminal as u32 => failed("set up the terminal"),
        _ if step == Step::Join as u32 => failed("join the workload's mounts"),
        _ if step == Step::Groups as u32 => failed("set the groups"),
        _ if step == Step::User as u32 => failed("set the user"),
        _ if step == Step::Directory as u32 => StartError::failed(format!(
            "cannot change to working directory {}: {reason}",
            command.cwd_path().display()
        )),
        _ => execute_failed(command, program, errno, &reason),
    }
}

/// Says why no program could be executed, in the terms of docker's messages, by which
/// callers tell the cases apart.
fn execute_failed(command: &Command, program: u32, errno: Errno, reason: &str) -> StartError {
    let name = command.name();
    let searched = !name.contains('/');
    let (status, message) = match errno {
        // In a search what is found but may not be executed counts for nothing.
        Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR if searched => (
            STATUS_NOT_FOUND,
            format!("exec: {name:?}: executable file not found in $PATH"),
        ),
        Errno::ENOENT | Errno::ENOTDIR => (
            STATUS_NOT_FOUND,
            format!("exec: {name:?}: no such file or directory"),
        ),
        Errno::EISDIR => (
            STATUS_NOT_EXECUTABLE,
            format!("exec: {name:?}: is a directory"),
        ),
        _ => {
            let path = command.programs.get(program as usize);
            let path = path.map_or(name.into(), |path| path.to_string_lossy());
            (STATUS_NOT_EXECUTABLE, format!("exec {path}: {reason}"))
        }
    };
    StartError { status, message }
}

/// All that a child needs to know.
struct Plan<'a> {
    command: &'a Command,
    stdio: [RawFd; 3],
    report: RawFd,
    /// It leads a session of its own.
    session: bool,
    /// Its stdin is a terminal, to be its controlling one.
    terminal: bool,
    /// A process (pidfd) whose mount namespace it joins.
    join: Option<RawFd>,
}

/// Where a child failed.
struct Failure {
    step: Step,
    detail: u32,
    errno: Errno,
}

impl Plan<'_> {
    /// Runs in the child and returns only on failure, which it has reported then. It makes
    /// system calls and nothing else: no memory is allocated and no lock taken.
    fn run(&self) {
        // SAFETY: takes no arguments and cannot fail.
        let pid = unsafe { libc::getpid() };
        self.tell(&pid.to_ne_bytes());
        let failure = match self.prepare() {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        };
        let mut report = [0; REPORT - 4];
        report[..4].copy_from_slice(&(failure.step as u32).to_ne_bytes());
        report[4..8].copy_from_slice(&failure.detail.to_ne_bytes());
        report[8..].copy_from_slice(&(failure.errno as i32).to_ne_bytes());
        self.tell(&report);
    }

    fn tell(&self, bytes: &[u8]) {
        // SAFETY: the bytes are valid for their length. A pipe takes so few in one piece.
        unsafe { libc::write(self.report, bytes.as_ptr().cast(), bytes.len()) };
    }

    fn prepare(&self) -> Result<(), Failure> {
        let command = self.command;
        if self.session {
            // SAFETY: takes no arguments; fails only for a leader, which a new child is not.
            unsafe { libc::setsid() };
        }
        for (number, &fd) in (0..).zip(&self.stdio) {
            // SAFETY: both are descriptors, and nothing here uses 0 to 2 otherwise.
            check(Step::Streams, unsafe { libc::dup2(fd, number) })?;
            // The streams may be opened again by their names in /dev, which needs the right
            // to; it does not matter if that fails, as it does for /dev/null sometimes.
            if command.uid != 0 && !self.is_null(fd) {
                // SAFETY: takes numbers only.
                unsafe { libc::fchown(number, command.uid, u32::MAX) };
            }
        }
        if self.terminal {
            // SAFETY: the request takes its argument by value.
            check(Step::Terminal, unsafe {
                libc::ioctl(0, libc::TIOCSCTTY, 0)
            })?;
        }
        if let Some(process) = self.join {
            // SAFETY: takes numbers only.
            check(Step::Join, unsafe {
                libc::setns(process, libc::CLONE_NEWNS)
            })?;
        }
        reset_signals();
        limit_files();

        // SAFETY: the groups are valid for their number.
        let done = unsafe { libc::setgroups(command.groups.len(), command.groups.as_ptr()) };
        check(Step::Groups, done)?;
        let gid = command.gid;
        // SAFETY: takes numbers only.
        check(Step::Groups, unsafe { libc::setresgid(gid, gid, gid) })?;
        // A directory that is root's alone may be entered by root, and one on a network
        // filesystem by its user alone.
        let entered = self.enter_cwd();
        let uid = command.uid;
        // SAFETY: takes numbers only.
        check(Step::User, unsafe { libc::setresuid(uid, uid, uid) })?;
        match entered {
            Err(Failure {
                errno: Errno::EACCES,
                ..
            }) => self.enter_cwd(),
            entered => entered,
        }
    }

    fn is_null(&self, fd: RawFd) -> bool {
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is valid for writing.
        let known = unsafe { libc::fstat(fd, &raw mut stat) } == 0;
        known && stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
    }

    fn enter_cwd(&self) -> Result<(), Failure> {
        // SAFETY: the path is a C string.
        check(Step::Directory, unsafe {
            libc::chdir(self.command.cwd.as_ptr())
        })
    }

    /// Executes the first program that can be. Comes back with the reason if none can.
    fn execute(&self) -> Failure {
        // Of all processes only the workload is started while the port is enabled.
        marks::report(BootMark::Command);
        marks::disable();
        let mut failure = Failure {
            step: Step::Execute,
            detail: 0,
            errno: Errno::ENOENT,
        };
        for (detail, program) in (0..).zip(&self.command.programs) {
            let (args, env) = (&self.command.args, &self.command.env);
            // SAFETY: the path is a C string, and both arrays end with a null pointer.
            unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
            failure.detail = detail;
            failure.errno = Errno::last();
            if !matches!(
                failure.errno,
                Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES
            ) {
                break;
            }
            if failure.errno == Errno::EACCES && is_directory(program.as_ptr()) {
                failure.errno = match self.command.programs.len() {
                    1 => Errno::EISDIR,
                    _ => Errno::EACCES,
                };
            }
        }
        failure
    }
}

fn check(step: Step, result: libc::c_int) -> Result<(), Failure> {
    Errno::result(result).map(drop).map_err(|errno| Failure {
        step,
        detail: 0,
        errno,
    })
}

fn is_directory(path: *const libc::c_char) -> bool {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the structure is valid for writing.
    let known = unsafe { libc::stat(path, &raw mut stat) } == 0;
    known && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Lowers the limit of open files, which this process raised for itself, but not beyond
/// what it may be raised to again.
fn limit_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid for writing, then for reading.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES_AT_FIRST);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Every signal has its default effect, and none is blocked.
fn reset_signals() {
    // Of all signals the agent ignores only this one; handlers it has none.
    // SAFETY: sets a default disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: all zeroes is a valid value, and the call makes it an empty set.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for writing, then for reading.
    unsafe {
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
