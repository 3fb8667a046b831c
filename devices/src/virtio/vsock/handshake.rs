//! How a host program says which port of the guest it wants: `CONNECT <port>\n`.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv};

/// The longest line with its end. `CONNECT 4294967295\n` has 19 bytes.
const MAX_LINE: usize = 32;

/// A host program that has not said yet what it wants.
#[derive(Debug)]
pub(super) struct Handshake {
    socket: UnixStream,
    line: Vec<u8>,
    pub(super) since: Instant,
}

/// How far a handshake came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The line has not ended yet.
    Waiting,
    /// The program wants this port of the guest. What follows the line is still unread.
    Port(u32),
    /// The program left or said something else.
    Failed,
}

impl Handshake {
    /// Takes over `socket`, which must be non-blocking.
    pub(super) fn new(socket: UnixStream, now: Instant) -> Self {
        Self {
            socket,
            line: Vec::new(),
            since: now,
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub(super) fn into_socket(self) -> UnixStream {
        self.socket
    }

    /// Reads what there is of the line, and nothing that follows it.
    pub(super) fn advance(&mut self) -> Progress {
        match self.read_line() {
            Ok(true) => parse(&self.line).map_or(Progress::Failed, Progress::Port),
            Ok(false) => Progress::Failed,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Progress::Waiting,
            Err(_) => Progress::Failed,
        }
    }

    /// Whether the line ended with its newline, rather than too late or with the connection.
    fn read_line(&mut self) -> io::Result<bool> {
        while self.line.len() < MAX_LINE {
            let mut ahead = [0; MAX_LINE];
            let room = &mut ahead[..MAX_LINE - self.line.len()];
            let seen = recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_PEEK)?;
            let end = room[..seen].iter().position(|&byte| byte == b'\n');
            let mut part = vec![0; end.map_or(seen, |end| end + 1)];
            self.socket.read_exact(&mut part)?;
            self.line.extend(part);
            if end.is_some() {
                return Ok(true);
            }
            if seen == 0 {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?.strip_suffix(b"\n")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (UnixStream, Handshake) {
        let (program, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        (program, Handshake::new(socket, Instant::now()))
    }

    #[test]
    fn a_line_may_come_in_pieces_and_what_follows_it_stays_unread() {
        let (mut program, mut handshake) = pair();
        assert_eq!(handshake.advance(), Progress::Waiting);
        program.write_all(b"CONN").unwrap();
        assert_eq!(handshake.advance(), Progress::Waiting);
        program.write_all(b"ECT 1024").unwrap();
        assert_eq!(handshake.advance(), Progress::Waiting);
        program.write_all(b"\nhello\n").unwrap();
        assert_eq!(handshake.advance(), Progress::Port(1024));
        let mut rest = [0; 6];
        handshake.into_socket().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello\n");
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "\n",
            "CONNECT\n",
            "CONNECT \n",
            "CONNECT +5\n",
            "CONNECT -1\n",
            "CONNECT 5 \n",
            "CONNECT 5\r\n",
            "connect 5\n",
            "CONNECT 4294967296\n",
            "CONNECT 00000000000000000000000000000005\n",
            "GET / HTTP/1.1 and then some more\r\n",
        ] {
            let (mut program, mut handshake) = pair();
            program.write_all(line.as_bytes()).unwrap();
            assert_eq!(handshake.advance(), Progress::Failed, "{line:?}");
        }
        let (mut program, mut handshake) = pair();
        program.write_all(b"CONNECT 4294967295\n").unwrap();
        assert_eq!(handshake.advance(), Progress::Port(u32::MAX));
    }

    #[test]
    fn a_program_that_leaves_is_refused() {
        let (mut program, mut handshake) = pair();
        program.write_all(b"CONNECT 5").unwrap();
        drop(program);
        assert_eq!(handshake.advance(), Progress::Failed);
    }

    proptest! {
        #[test]
        fn any_line_is_read_within_bounds(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4),
        ) {
            let (mut program, mut handshake) = pair();
            for piece in pieces {
                let _ = program.write_all(&piece);
                let progress = handshake.advance();
                prop_assert!(handshake.line.len() <= MAX_LINE);
                if progress != Progress::Waiting {
                    break;
                }
            }
        }
    }
}
