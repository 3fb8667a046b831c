//! How a child got on between fork and exec.
//!
//! It tells over a pipe: its process ID as it sees it, then nothing more if the program runs
//! (the pipe closes on exec), or the step that failed and why.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::limits;
use super::{Command, STATUS_FAILED, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND, StartError};

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
pub(super) enum Step {
    Streams,
    Terminal,
    Join,
    Proc,
    Limit,
    OomScore,
    Privileges,
    Groups,
    User,
    Directory,
    Execute,
}

fn describe(command: &Command, step: u32, detail: u32, errno: u32) -> StartError {
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
        _ if step == Step::Proc as u32 => failed("mount /proc"),
        _ if step == Step::Limit as u32 => failed(&format!("set ulimit {}", limits::name(detail))),
        _ if step == Step::OomScore as u32 => failed(&format!(
            "set OOM score adjustment {}",
            command.oom_score_adj
        )),
        _ if step == Step::Privileges as u32 => failed("forbid new privileges"),
        _ if step == Step::Groups as u32 => failed("set the groups"),
        _ if step == Step::User as u32 => failed("set the user"),
        _ if step == Step::Directory as u32 => StartError {
            status: match errno {
                Errno::ENOENT | Errno::ENOTDIR => STATUS_NOT_FOUND,
                Errno::EACCES => STATUS_NOT_EXECUTABLE,
                _ => STATUS_FAILED,
            },
            message: format!(
                "chdir to cwd ({:?}) failed: {reason}",
                command.cwd_path().display().to_string()
            ),
        },
        _ => execute_failed(command, detail, errno, &reason),
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

/// Where a child failed.
pub(super) struct Failure {
    pub(super) step: Step,
    /// Of a limit its resource, else the number of the program that was executed last.
    pub(super) detail: u32,
    pub(super) errno: Errno,
}

/// The child's end of the pipe. Its methods allocate nothing.
#[derive(Clone, Copy)]
pub(super) struct Reporter(pub(super) RawFd);

impl Reporter {
    /// Tells the child's process ID.
    pub(super) fn born(self, pid: libc::pid_t) {
        self.tell(&pid.to_ne_bytes());
    }

    /// Tells why no program runs.
    pub(super) fn failed(self, failure: &Failure) {
        let mut report = [0; REPORT - 4];
        report[..4].copy_from_slice(&(failure.step as u32).to_ne_bytes());
        report[4..8].copy_from_slice(&failure.detail.to_ne_bytes());
        report[8..].copy_from_slice(&(failure.errno as i32).to_ne_bytes());
        self.tell(&report);
    }

    fn tell(self, bytes: &[u8]) {
        // SAFETY: the bytes are valid for their length. A pipe takes so few in one piece.
        unsafe { libc::write(self.0, bytes.as_ptr().cast(), bytes.len()) };
    }
}
