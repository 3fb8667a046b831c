//! An end for monitors that hang.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills a process that takes longer than its patience, unless dropped before.
#[derive(Debug)]
pub(crate) struct Watchdog(Sender<()>);

impl Watchdog {
    pub(crate) fn new(pid: u32, patience: Duration) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let waited = receiver.recv_timeout(patience);
            if waited == Err(RecvTimeoutError::Timeout)
                && let Ok(pid) = i32::try_from(pid)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        });
        Self(sender)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // A watchdog that has barked listens no more.
        let _ = self.0.send(());
    }
}
