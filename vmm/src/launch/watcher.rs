//! A tiny process that outlives a killed launcher for a moment. The kernel kills the machine
//! and the virtiofsds with the launcher; what it cannot do is remove a directory and put a
//! terminal back.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, setsid};

use super::rundir;
use super::signals::is_first_process;
use super::terminal::Saved;

/// The watching process, until this is dropped: then there is nothing left to watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    pid: Pid,
    _alive: OwnedFd,
}

impl Watcher {
    /// Watches this process: when it ends without dropping the result, the run directory
    /// `dir` is removed and `terminal` put back. Nobody watches the first process of a
    /// container, with which all else ends. Must be called while this process has one thread.
    pub(crate) fn start(dir: &Path, terminal: Option<&Saved>) -> Result<Option<Self>, Errno> {
        if is_first_process() {
            return Ok(None);
        }
        let (end, alive) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the process has one thread, so no lock is held by a thread that the child
        // lacks; the child never returns from `watch`.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Some(Self {
                pid: child,
                _alive: alive,
            })),
            ForkResult::Child => watch(&end, dir, terminal),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It is our unreaped child, so the PID is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn watch(end: &OwnedFd, dir: &Path, terminal: Option<&Saved>) -> ! {
    // Signals to the launcher's group or terminal are not for this process, and neither are
    // the launcher's descriptors: who waits for its streams to close must not wait for us.
    let _ = setsid();
    // Who kills launchers by their program's name is not to kill who cleans up after them.
    let _ = prctl::set_name(c"runcvm-watcher");
    let mut kept = [end.as_raw_fd(), terminal.map_or(-1, Saved::fd)];
    kept.sort_unstable();
    close_all_but(&kept);
    let mut byte = [0];
    while read(end, &mut byte) == Err(Errno::EINTR) {}
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    // The lock goes with the launcher's last descriptor, moments after the pipe's end.
    for _ in 0..100 {
        if rundir::remove_if_stale(dir) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // SAFETY: ends the process without running exit handlers, which are the launcher's.
    unsafe { libc::_exit(0) }
}

/// Closes all descriptors but these; they are sorted.
pub(crate) fn close_all_but(kept: &[i32]) {
    let mut first = 0;
    for &fd in kept.iter().filter(|&&fd| fd >= 0) {
        if let (Ok(from), Ok(to)) = (u32::try_from(first), u32::try_from(fd - 1))
            && from <= to
        {
            // SAFETY: this process uses no descriptor but those that are kept.
            unsafe { libc::close_range(from, to, 0) };
        }
        first = fd + 1;
    }
    if let Ok(from) = u32::try_from(first) {
        // SAFETY: as above.
        unsafe { libc::close_range(from, u32::MAX, 0) };
    }
}
