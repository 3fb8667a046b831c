//! One `poll(2)` over the descriptors of many parts: each part says what it waits for, and
//! asks afterwards whether it came.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::poll::PollFlags;

/// The descriptors of one round of a loop.
#[derive(Debug, Default)]
pub(crate) struct PollSet {
    entries: Vec<libc::pollfd>,
}

impl PollSet {
    /// Waits for `events` on `fd` in this round; errors and hang-ups always count.
    pub(crate) fn watch(&mut self, fd: &impl AsRawFd, events: PollFlags) {
        self.entries.push(libc::pollfd {
            fd: fd.as_raw_fd(),
            events: events.bits(),
            revents: 0,
        });
    }

    /// Sleeps until something is ready or `timeout` has passed; `None` is for ever.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a deadline must have passed when the loop looks at it.
        let timeout = timeout.map_or(-1, |t| {
            i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        let count = libc::nfds_t::try_from(self.entries.len()).expect("a length fits");
        // SAFETY: the pointer and the length are those of a vector of `pollfd` that lives
        // across the call; poll only writes `revents`, and rejects descriptors by itself.
        let n = unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout) };
        if n >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        for entry in &mut self.entries {
            entry.revents = 0;
        }
        Ok(())
    }

    /// `fd` was watched and is readable, at its end or broken: a read will not block.
    pub(crate) fn readable(&self, fd: &impl AsRawFd) -> bool {
        self.has(fd, PollFlags::POLLIN)
    }

    /// `fd` was watched and is writable or broken: a small write will not block.
    fn writable(&self, fd: &impl AsRawFd) -> bool {
        self.has(fd, PollFlags::POLLOUT)
    }

    fn has(&self, fd: &impl AsRawFd, events: PollFlags) -> bool {
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let wanted = (events | broken).bits();
        self.entries
            .iter()
            .any(|e| e.fd == fd.as_raw_fd() && e.revents & wanted != 0)
    }
}

/// A small write to `fd` will not block now.
pub(crate) fn is_writable(fd: &impl AsRawFd) -> bool {
    let mut set = PollSet::default();
    set.watch(fd, PollFlags::POLLOUT);
    set.wait(Some(Duration::ZERO)).is_ok() && set.writable(fd)
}
