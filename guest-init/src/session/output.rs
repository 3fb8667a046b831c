//! The stdout or stderr of a process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use nix::sys::epoll::EpollFlags;
use runcvm_protocol::{MAX_DATA, Output, ToHost, WINDOW};

use crate::events::Watched;

nix::ioctl_read_bad!(readable_bytes, libc::FIONREAD, libc::c_int);

/// What comes from an output stream of a process.
#[derive(Debug)]
pub(super) struct OutputStream {
    which: Output,
    /// None once it has ended.
    file: Option<Watched<File>>,
    /// Bytes that were sent and that the host has not consumed.
    under_way: u32,
    /// The host is gone: what is read goes nowhere.
    forgotten: bool,
    /// Bytes that were there when the process ended and are not read yet.
    owed: usize,
}

impl OutputStream {
    /// Reads from `file`, which does not block.
    pub(super) fn new(which: Output, file: Watched<File>) -> Self {
        Self {
            which,
            file: Some(file),
            under_way: 0,
            forgotten: false,
            owed: 0,
        }
    }

    /// It is this stream.
    pub(super) fn is(&self, which: Output) -> bool {
        self.which == which
    }

    /// Nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.file.is_none()
    }

    /// The host consumed so many bytes.
    pub(super) fn consumed(&mut self, bytes: u32) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }

    /// The host is gone.
    pub(super) fn forget(&mut self) {
        self.forgotten = true;
    }

    /// The process has ended. What it wrote is there now; what others write later may be
    /// cut off.
    pub(super) fn process_ended(&mut self) {
        let Some(file) = &self.file else {
            return;
        };
        let mut bytes = 0;
        // SAFETY: the descriptor is open, and the kernel writes one integer.
        let known = unsafe { readable_bytes(file.as_raw_fd(), &raw mut bytes) };
        self.owed = known
            .ok()
            .and_then(|_| usize::try_from(bytes).ok())
            .unwrap_or(0);
    }

    /// Ends it though somebody holds it open. Returns the message that says so, unless it
    /// has ended before.
    pub(super) fn close(&mut self) -> Option<ToHost> {
        self.file.take().map(|_| ToHost::OutputEnd(self.which))
    }

    /// Closes it, unless the process's own bytes are still to be read.
    pub(super) fn cut(&mut self) -> Option<ToHost> {
        if self.owed > 0 {
            return None;
        }
        self.close()
    }

    fn window(&self) -> usize {
        let left = match self.forgotten {
            true => WINDOW,
            false => WINDOW.saturating_sub(self.under_way),
        };
        MAX_DATA.min(left as usize)
    }

    /// Reads what is there, no more than one message. Returns what to tell the host.
    pub(super) fn read(&mut self) -> Option<ToHost> {
        let window = self.window();
        let file = self.file.as_mut().filter(|_| window > 0)?;
        let mut data = vec![0; window];
        match file.read(&mut data) {
            Ok(n @ 1..) => {
                data.truncate(n);
                self.owed = self.owed.saturating_sub(n);
                if self.forgotten {
                    return None;
                }
                self.under_way += u32::try_from(n).expect("a window is 32 bits");
                Some(ToHost::Output(self.which, data))
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                None
            }
            // A terminal that no process holds open any more fails with EIO.
            Ok(0) | Err(_) => {
                self.file = None;
                self.owed = 0;
                Some(ToHost::OutputEnd(self.which))
            }
        }
    }

    /// Waits for bytes, if they `may` be read and the host has room for them.
    pub(super) fn wait(&mut self, may: bool) {
        let may = may && self.window() > 0;
        if let Some(file) = &mut self.file {
            file.want(match may {
                true => EpollFlags::EPOLLIN,
                false => EpollFlags::empty(),
            });
        }
    }
}
