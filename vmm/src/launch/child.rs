//! Processes that the launcher starts: they die with it, and what they complain about is kept
//! for one sentence.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::poll::PollSet;

/// Bytes of a child's stderr that are kept.
const KEPT: usize = 4096;

/// How long what a killed child started may take to end.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// A child process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    stderr: Option<File>,
    tail: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Helper {
    /// Starts `command` in a session of its own, with no stdin and stdout, and with the
    /// descriptors `inherited` besides. It is killed when the calling thread ends. `setup`
    /// runs in the child and may only do what is safe after a fork.
    pub(crate) fn start(
        mut command: Command,
        inherited: Vec<RawFd>,
        setup: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut setup = setup;
        let parent = nix::unistd::getpid();
        let (stderr, child_end) = io::pipe()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(child_end);
        let prepare = move || {
            // Signals that the launcher takes for itself are not blocked in its children.
            SigSet::empty().thread_set_mask()?;
            nix::unistd::setsid()?;
            setup()?;
            for &fd in &inherited {
                // SAFETY: takes no pointer; a wrong descriptor is an error.
                nix::errno::Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
            }
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before the line above.
            if nix::unistd::getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        };
        // SAFETY: `prepare` makes system calls only and allocates nothing, and `setup` is
        // documented to do the same.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        let stderr = File::from(OwnedFd::from(stderr));
        nix::fcntl::fcntl(
            &stderr,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Ok(Self {
            child,
            stderr: Some(stderr),
            tail: Vec::new(),
            status: None,
        })
    }

    /// Its process ID, unless it was waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.status.is_none().then(|| self.child.id())
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        if let Some(stderr) = &self.stderr {
            set.watch(stderr, PollFlags::POLLIN);
        }
    }

    /// Takes what it wrote to stderr.
    pub(crate) fn step(&mut self, set: &PollSet) {
        if self.stderr.as_ref().is_some_and(|f| set.readable(f)) {
            self.read_stderr();
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Kills it if it still runs, and waits for its end and that of what it started, which is
    /// over when nobody has its stderr any more.
    pub(crate) fn kill(&mut self) {
        self.start_killing();
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
        let deadline = Instant::now() + LAST_MOMENTS;
        while self.stderr.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut set = PollSet::default();
            self.watch(&mut set);
            if left.is_zero() || set.wait(Some(left)).is_err() {
                break;
            }
            self.step(&set);
        }
    }

    /// Kills it, with what it started, without waiting for the end.
    pub(crate) fn start_killing(&mut self) {
        if self.ended().is_none() {
            let group = i32::try_from(self.child.id()).expect("the kernel's numbers fit");
            // It leads a session, and so a group, of its own.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }

    /// How it ended and its last words, for a sentence that begins with who it is.
    pub(crate) fn last_words(&mut self) -> String {
        self.read_stderr();
        let how = match self.ended() {
            None => "still runs".to_owned(),
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended with status {}", code.unwrap_or_default()),
            },
        };
        let text = String::from_utf8_lossy(&self.tail);
        match text
            .lines()
            .rev()
            .map(without_log_prefix)
            .find(|l| !l.is_empty())
        {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }

    fn read_stderr(&mut self) {
        let Some(stderr) = &mut self.stderr else {
            return;
        };
        let mut buffer = [0; KEPT];
        loop {
            match stderr.read(&mut buffer) {
                Ok(0) => {
                    self.stderr = None;
                    return;
                }
                Ok(n) => {
                    self.tail.extend_from_slice(&buffer[..n]);
                    let excess = self.tail.len().saturating_sub(KEPT);
                    self.tail.drain(..excess);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line of a log without the `[time level module]` in front.
fn without_log_prefix(line: &str) -> &str {
    line.strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .map_or(line, |(_, message)| message)
        .trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_tells_how_it_ended_and_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo '[now ERROR x] it broke' >&2; exit 3"]);
        let mut helper = Helper::start(command, Vec::new(), || Ok(())).unwrap();
        while helper.ended().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(helper.last_words(), "ended with status 3: it broke");
    }

    #[test]
    fn a_dropped_child_is_gone_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $! >&2; wait"]);
        let mut helper = Helper::start(command, Vec::new(), || Ok(())).unwrap();
        while helper.tail.last() != Some(&b'\n') {
            helper.read_stderr();
        }
        let below = String::from_utf8_lossy(&helper.tail).trim().to_owned();
        let proc = format!("/proc/{}", helper.child.id());
        drop(helper);
        assert!(!std::path::Path::new(&proc).exists());
        // Whoever is its parent now may not have waited for it yet.
        let left = std::fs::read_to_string(format!("/proc/{below}/cmdline"));
        assert_eq!(left.unwrap_or_default(), "");
    }
}
