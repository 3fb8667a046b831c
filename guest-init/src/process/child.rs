//! What a child does between fork and exec: system calls on memory that was made ready
//! before, and nothing else. No memory is allocated and no lock taken.

use std::os::fd::RawFd;

use nix::errno::Errno;
use runcvm_protocol::BootMark;

use super::report::{Failure, Reporter, Step};
use super::{Command, limits};
use crate::marks;

/// All that a child needs to know.
pub(super) struct Plan<'a> {
    pub(super) command: &'a Command,
    pub(super) stdio: [RawFd; 3],
    pub(super) reporter: Reporter,
    /// It leads a session of its own.
    pub(super) session: bool,
    /// Its stdin is a terminal, to be its controlling one.
    pub(super) terminal: bool,
    /// A directory on which it mounts the proc filesystem of its PID namespace.
    pub(super) proc: Option<RawFd>,
    /// A process (pidfd) whose mount namespace it joins.
    pub(super) join: Option<RawFd>,
    /// The root of a proc filesystem that knows this process.
    pub(super) procfs: RawFd,
}

impl Plan<'_> {
    /// Becomes the command. Returns only on failure, which it has reported then.
    pub(super) fn run(&self) {
        // SAFETY: takes no arguments and cannot fail.
        self.reporter.born(unsafe { libc::getpid() });
        let failure = match self.prepare() {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        };
        self.reporter.failed(&failure);
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
        if let Some(mountpoint) = self.proc {
            mount_proc(mountpoint)?;
        }
        reset_signals();
        self.set_limits()?;
        self.set_oom_score()?;
        // SAFETY: takes a number only and cannot fail.
        unsafe { libc::umask(command.umask) };
        if command.no_new_privileges {
            // SAFETY: takes numbers only.
            check(Step::Privileges, unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            })?;
        }

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

    fn set_limits(&self) -> Result<(), Failure> {
        limits::lower();
        for limit in &self.command.limits {
            limits::set(limit).map_err(|errno| Failure {
                step: Step::Limit,
                detail: limit.resource,
                errno,
            })?;
        }
        Ok(())
    }

    /// Always, as the parent's own is inherited.
    fn set_oom_score(&self) -> Result<(), Failure> {
        let path = c"self/oom_score_adj".as_ptr();
        // SAFETY: the path is a C string.
        let fd = unsafe { libc::openat(self.procfs, path, libc::O_WRONLY | libc::O_CLOEXEC) };
        check(Step::OomScore, fd)?;
        let text = self.command.oom_score_adj.as_bytes();
        // SAFETY: the bytes are valid for their length, and the descriptor is open.
        let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
        let done = check(Step::OomScore, if written < 0 { -1 } else { 0 });
        // SAFETY: nobody else knows the descriptor.
        unsafe { libc::close(fd) };
        done
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

fn mount_proc(mountpoint: RawFd) -> Result<(), Failure> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let proc = c"proc".as_ptr();
    // SAFETY: takes a number only.
    check(Step::Proc, unsafe { libc::fchdir(mountpoint) })?;
    // SAFETY: the strings are C strings, and there is no data.
    let done = unsafe { libc::mount(proc, c".".as_ptr(), proc, flags, std::ptr::null()) };
    check(Step::Proc, done)
}

fn is_directory(path: *const libc::c_char) -> bool {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the structure is valid for writing.
    let known = unsafe { libc::stat(path, &raw mut stat) } == 0;
    known && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
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
