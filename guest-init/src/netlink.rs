//! Requests to the kernel's routing netlink socket (rtnetlink(7)), no more of it than this
//! program needs.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use thiserror::Error;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// The kernel makes answers no longer than this where the buffer is as long.
const BUFFER: usize = 32 * 1024;

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum NetlinkError {
    #[error("the netlink socket failed")]
    Socket(#[source] io::Error),
    #[error("the kernel's answer is malformed")]
    Malformed,
    /// The kernel refuses; the text says what was asked.
    #[error("cannot {what}")]
    Refused {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// Requests that go to the kernel in one piece, each to be acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where the last request starts.
    start: usize,
    /// What each request does, to say so if it fails.
    what: Vec<String>,
}

impl Batch {
    /// Adds a request of this type, with flags besides `NLM_F_REQUEST` and `NLM_F_ACK` and
    /// with its fixed part; attributes follow by [`Self::attribute`]. `what` reads after
    /// "cannot".
    pub(crate) fn request(&mut self, kind: u16, flags: i32, fixed: &[u8], what: String) {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK)
            .expect("netlink flags are 16 bits");
        let sequence = u32::try_from(self.what.len()).expect("requests are few");
        self.start = self.bytes.len();
        self.what.push(what);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.finish();
    }

    /// Adds an attribute to the last request.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).expect("attributes are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.finish();
    }

    fn finish(&mut self) {
        let aligned = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(aligned, 0);
        let len = u32::try_from(self.bytes.len() - self.start).expect("requests are short");
        self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }
}

/// A connection to routing netlink.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self { socket })
    }

    /// Carries out all requests in their order and reports the first that the kernel
    /// refuses.
    pub(crate) fn execute(&self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.what.is_empty() {
            return Ok(());
        }
        send(self.socket.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
        let mut refused = None;
        let mut pending = batch.what.len();
        self.receive(|message| {
            if i32::from(message.kind) == libc::NLMSG_ERROR {
                pending = pending.saturating_sub(1);
                let errno = message
                    .payload
                    .first_chunk()
                    .map_or(0, |b| -i32::from_ne_bytes(*b));
                if errno != 0 && refused.is_none() {
                    let what = batch.what.get(message.sequence as usize).cloned();
                    refused = Some(NetlinkError::Refused {
                        what: what.unwrap_or_default(),
                        source: io::Error::from_raw_os_error(errno),
                    });
                }
            }
            pending > 0
        })?;
        refused.map_or(Ok(()), Err)
    }

    /// Asks for a list and hands each entry's fixed part and attributes to `entry`.
    pub(crate) fn dump(
        &self,
        kind: u16,
        fixed: &[u8],
        mut entry: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        batch.request(kind, libc::NLM_F_DUMP, fixed, String::new());
        send(self.socket.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
        let mut failed = None;
        self.receive(|message| match i32::from(message.kind) {
            libc::NLMSG_DONE => false,
            libc::NLMSG_ERROR => {
                let errno = message
                    .payload
                    .first_chunk()
                    .map_or(0, |b| -i32::from_ne_bytes(*b));
                failed = Some(io::Error::from_raw_os_error(errno));
                false
            }
            _ => {
                entry(message.payload);
                true
            }
        })?;
        failed.map_or(Ok(()), |e| Err(NetlinkError::Socket(e)))
    }

    /// Hands messages to `take` until it wants no more.
    fn receive(&self, mut take: impl FnMut(Message<'_>) -> bool) -> Result<(), NetlinkError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let (message, next) = Message::split(rest).ok_or(NetlinkError::Malformed)?;
                if !take(message) {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message of `bytes` and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let message = bytes.get(..len)?;
        let header: &[u8; HEADER] = message.first_chunk()?;
        let [_, _, _, _, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let next = len.next_multiple_of(4).min(bytes.len());
        Some((
            Self {
                kind: u16::from_ne_bytes([k0, k1]),
                sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
                payload: &message[HEADER..],
            },
            &bytes[next..],
        ))
    }
}

/// The attributes in `bytes`, each with its type.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..len)?;
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
        Some((u16::from_ne_bytes([k0, k1]), value))
    })
}
