//! Signals as events of the loop: those for the launcher itself, and those for the workload.

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::poll::PollSet;

/// Signals that are passed on to the workload. Not among them: what stops a job or shows a
/// fault of this process, and what the loop takes for itself. The first process of a container
/// passes on all that can be taken: nobody there stops jobs, and a fault of its own ends it
/// anyway.
const FORWARDED: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
];

/// What a signal means to the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A child may have ended.
    Child,
    /// The terminal may have a new size.
    Resize,
    /// For the workload: the signal's number.
    Forward(u8),
}

/// Signals taken through a descriptor while this lives.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    before: SigSet,
    /// This is the first process of a container.
    first: bool,
}

impl Signals {
    /// Takes signals from now on.
    pub(crate) fn take() -> Result<Self, Errno> {
        let first = is_first_process();
        let mut mask = SigSet::empty();
        if first {
            mask = SigSet::all();
        }
        FORWARDED.into_iter().for_each(|s| mask.add(s));
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGWINCH);
        let mut mask = *mask.as_ref();
        for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
            // SAFETY: `mask` is an initialized signal set; sigaddset writes only to it.
            unsafe { libc::sigaddset(&raw mut mask, signal) };
        }
        // SAFETY: `mask` was initialized by `SigSet::empty`.
        let mask = unsafe { SigSet::from_sigset_t_unchecked(mask) };
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut before))?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd, before, first })
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        set.watch(&self.fd, PollFlags::POLLIN);
    }

    /// The next signal that arrived.
    pub(crate) fn next(&self, set: &PollSet) -> Option<Event> {
        if !set.readable(&self.fd) {
            return None;
        }
        loop {
            let info = self.fd.read_signal().ok()??;
            let number = u8::try_from(info.ssi_signo).ok()?;
            return Some(match i32::from(number) {
                libc::SIGCHLD => Event::Child,
                // A terminal's comes from the kernel; some servers end on one from a process.
                libc::SIGWINCH if !self.first || info.ssi_code > 0 => Event::Resize,
                // Our own writes to nobody.
                libc::SIGPIPE if info.ssi_pid == std::process::id() => continue,
                _ => Event::Forward(number),
            });
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What arrived too late to mean anything must not end the process now.
        while let Ok(Some(_)) = self.fd.read_signal() {}
        // Fails only for a bad address or operation, and these are neither.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// This process is the first of a PID namespace: no signal reaches it that it does not take,
/// and orphans are its children.
pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Signals that end a process which has not said otherwise, and that people send to end one.
pub(crate) fn is_terminating(signal: u8) -> bool {
    matches!(
        i32::from(signal),
        libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM
    )
}
