//! The stdin of a process.

use std::fs::File;
use std::io::{self, Write};

use nix::sys::epoll::EpollFlags;
use runcvm_protocol::WINDOW;

use crate::events::Watched;

/// More bytes came than a window holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// What goes to a process's stdin and is not there yet.
#[derive(Debug)]
pub(super) struct Input {
    /// None once it is closed; what comes then goes nowhere.
    file: Option<Watched<File>>,
    waiting: Vec<u8>,
    /// How many bytes of `waiting` are written already.
    written: usize,
    /// Closed when everything is written.
    ending: bool,
}

impl Input {
    /// Writes to `file`, which does not block; without one, nowhere.
    pub(super) fn new(file: Option<Watched<File>>) -> Self {
        Self {
            file,
            waiting: Vec::new(),
            written: 0,
            ending: false,
        }
    }

    /// Takes bytes for it.
    pub(super) fn push(&mut self, data: Vec<u8>) -> Result<(), Overflow> {
        let left = self.waiting.len() - self.written;
        if left + data.len() > WINDOW as usize {
            return Err(Overflow);
        }
        if left == 0 {
            self.waiting = data;
        } else {
            self.waiting.drain(..self.written);
            self.waiting.extend_from_slice(&data);
        }
        self.written = 0;
        Ok(())
    }

    /// No more bytes come.
    ///
    /// A terminal stays as it is: its process goes on without input, as with docker.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Nobody reads it any more.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Writes as much as the process takes now. Returns how many bytes are dealt with.
    pub(super) fn feed(&mut self) -> u32 {
        let before = self.written;
        while self.written < self.waiting.len() {
            let Some(file) = &mut self.file else {
                self.written = self.waiting.len();
                break;
            };
            match file.write(&self.waiting[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // The process has closed it.
                Err(_) => self.file = None,
            }
        }
        if self.ending && self.written == self.waiting.len() {
            self.file = None;
        }
        u32::try_from(self.written - before).expect("no more than a window waits")
    }

    /// Waits until the process takes more, if anything waits for it.
    pub(super) fn wait(&mut self) {
        let waiting = self.written < self.waiting.len();
        if let Some(file) = &mut self.file {
            file.want(match waiting {
                true => EpollFlags::EPOLLOUT,
                false => EpollFlags::empty(),
            });
        }
    }
}
