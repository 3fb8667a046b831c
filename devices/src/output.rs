//! Writing the guest's output to files that may not take it at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

/// What a pipe takes for sure when it takes anything (`_POSIX_PIPE_BUF`).
const SURE: usize = 512;

/// A file that is written without waiting for it.
///
/// `O_NONBLOCK` belongs to the open file description, which whoever gave us the file may
/// share, such as a shell its terminal: it is not ours to set. Pipes and terminals are opened
/// once more for a description of our own; sockets have a flag for each call. Where neither
/// can be had, a poll comes before each write, and writes are short; then a terminal that is
/// stopped at the wrong moment does hold the writer up until it goes on.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A write never waits.
    Immediate,
    /// `MSG_DONTWAIT` says not to wait.
    Socket,
    /// Poll first.
    Polled,
}

impl Output {
    pub(crate) fn new(file: File) -> Self {
        let Ok(metadata) = file.metadata() else {
            return Self {
                file,
                kind: Kind::Polled,
            };
        };
        let file_type = metadata.file_type();
        if file_type.is_socket() {
            return Self {
                file,
                kind: Kind::Socket,
            };
        }
        if !file_type.is_fifo() && !file_type.is_char_device() {
            return Self {
                file,
                kind: Kind::Immediate,
            };
        }
        match reopen_nonblocking(&file) {
            Some(file) => Self {
                file,
                kind: Kind::Immediate,
            },
            None => Self {
                file,
                kind: Kind::Polled,
            },
        }
    }

    /// Writes as much of `data` as goes at once. [`io::ErrorKind::WouldBlock`] if that is
    /// nothing.
    pub(crate) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self.kind {
                Kind::Immediate => (&self.file).write(data),
                Kind::Socket => send(self.file.as_fd(), data),
                Kind::Polled if self.wait(Duration::ZERO) => {
                    (&self.file).write(&data[..data.len().min(SURE)])
                }
                Kind::Polled => Err(io::ErrorKind::WouldBlock.into()),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Waits until something can be written, or the other end is gone, but no longer than
    /// `timeout`. Returns whether that came to pass.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        poll(self.file.as_fd(), libc::POLLOUT, timeout)
    }
}

impl AsRawFd for Output {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

/// Whether any of `events`, an error or a hang-up is there for `file` within `timeout`.
pub(crate) fn poll(file: BorrowedFd, events: i16, timeout: Duration) -> bool {
    let mut entry = libc::pollfd {
        fd: file.as_raw_fd(),
        events,
        revents: 0,
    };
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: there is one entry, and it outlives the call.
    unsafe { libc::poll(&raw mut entry, 1, timeout) > 0 }
}

/// Opens a pipe or character device again, for a description with flags of its own. Not a
/// pseudoterminal's master: that would be another one.
fn reopen_nonblocking(file: &File) -> Option<File> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    let is_master = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } == 0;
    if is_master {
        return None;
    }
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()
}

fn send(socket: BorrowedFd, data: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `data.len()` bytes of `data`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn is_nonblocking(file: &File) -> bool {
        // SAFETY: F_GETFL touches no memory.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        flags & libc::O_NONBLOCK != 0
    }

    /// Writes until nothing goes any more, and returns how much went.
    fn fill(output: &Output) -> usize {
        let mut total = 0;
        loop {
            match output.try_write(&[b'x'; 4096]) {
                Ok(len) => total += len,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    fn check_full(file: File, mut reader: impl Read, make: impl FnOnce(File) -> Output) {
        let shared = file.try_clone().unwrap();
        let output = make(file);
        let total = fill(&output);
        assert!(total >= 4096);
        assert!(!output.wait(Duration::from_millis(1)));
        assert!(
            !is_nonblocking(&shared),
            "others' descriptions are left alone"
        );
        let mut data = vec![0; total];
        reader.read_exact(&mut data).unwrap();
        assert!(output.wait(Duration::from_secs(5)));
        assert!(output.try_write(b"more").unwrap() > 0);
    }

    #[test]
    fn full_pipes_and_sockets_do_not_hold_the_writer_up() {
        let (reader, writer) = io::pipe().unwrap();
        check_full(OwnedFd::from(writer).into(), reader, Output::new);
        let (reader, writer) = UnixStream::pair().unwrap();
        check_full(OwnedFd::from(writer).into(), reader, Output::new);
        let (reader, writer) = io::pipe().unwrap();
        check_full(OwnedFd::from(writer).into(), reader, |file| Output {
            file,
            kind: Kind::Polled,
        });
    }

    #[test]
    fn regular_files_are_written_where_they_stand() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        let output = Output::new(file.try_clone().unwrap());
        assert_eq!(output.try_write(b"after").unwrap(), 5);
        let mut content = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "before after");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = Output::new(OwnedFd::from(writer).into());
        let error = output.try_write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
