//! The user's streams. They are shared with other processes, so they stay blocking; reads
//! and writes are kept so small that they do not block after `poll` said they would not.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use nix::poll::PollFlags;

use super::poll::{self, PollSet};

/// A pipe that polls writable has room for a whole page.
const PIPE_WRITE: usize = 4096;

/// Writes to one stream before other things are looked at.
const WRITES: usize = 16;

/// The user's streams for a process in the guest.
#[derive(Debug)]
pub struct Io {
    /// Fed to the process; `None`: it has no stdin.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

impl Io {
    /// This process's own streams; its stdin only if `stdin`.
    pub fn inherited(stdin: bool) -> io::Result<Self> {
        Ok(Self {
            stdin: stdin
                .then(|| io::stdin().as_fd().try_clone_to_owned())
                .transpose()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// Where bytes for the guest come from.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
}

impl Source {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        set.watch(&self.file, PollFlags::POLLIN);
    }

    /// Reads at most `room` bytes if there are some: `Some` and empty is the end of the
    /// stream. A stream that fails ends.
    pub(crate) fn read(&mut self, set: &PollSet, room: usize) -> Option<Vec<u8>> {
        if room == 0 || !set.readable(&self.file) {
            return None;
        }
        let mut bytes = vec![0; room];
        match self.file.read(&mut bytes) {
            Ok(n) => {
                bytes.truncate(n);
                Some(bytes)
            }
            Err(e) if is_transient(&e) => None,
            Err(_) => Some(Vec::new()),
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where bytes from the guest go.
#[derive(Debug)]
pub(crate) struct Sink {
    /// `None` once nobody reads any more, or the stream ended and all is written.
    file: Option<File>,
    /// Greatest number of bytes to write after a poll.
    step: usize,
    queue: VecDeque<u8>,
    ended: bool,
    error: Option<io::Error>,
}

impl Sink {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let regular = file.metadata().is_ok_and(|m| {
            let kind = m.file_type();
            kind.is_file() || kind.is_block_device()
        });
        Self {
            file: Some(file),
            step: if regular { 64 * 1024 } else { PIPE_WRITE },
            queue: VecDeque::new(),
            ended: false,
            error: None,
        }
    }

    /// Takes bytes to write; a closed sink drops them.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.file.is_some() {
            self.queue.extend(bytes);
        }
    }

    /// Nothing more will be pushed: closes once all is written.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.close_if_done();
    }

    /// Bytes that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// What is pushed goes nowhere.
    pub(crate) fn is_closed(&self) -> bool {
        self.file.is_none()
    }

    /// Why bytes were lost, unless the reader had simply gone.
    pub(crate) fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        if let Some(file) = &self.file
            && !self.queue.is_empty()
        {
            set.watch(file, PollFlags::POLLOUT);
        }
    }

    /// Writes what can be written without blocking.
    pub(crate) fn flush(&mut self) {
        for _ in 0..WRITES {
            let Some(file) = &mut self.file else { return };
            // Asked each time: our other stream may have filled the same pipe since.
            if self.queue.is_empty() || !poll::is_writable(file) {
                return;
            }
            let (bytes, _) = self.queue.as_slices();
            let bytes = &bytes[..bytes.len().min(self.step)];
            match file.write(bytes) {
                Ok(n) => {
                    self.queue.drain(..n);
                    self.close_if_done();
                }
                Err(e) if is_transient(&e) => return,
                Err(e) => {
                    if e.kind() != io::ErrorKind::BrokenPipe {
                        self.error = Some(e);
                    }
                    self.file = None;
                    self.queue.clear();
                }
            }
        }
    }

    fn close_if_done(&mut self) {
        if self.ended && self.queue.is_empty() {
            self.file = None;
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
