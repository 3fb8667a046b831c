//! One connection between the guest and a Unix socket: its credit in both directions
//! (§5.10.6.3) and how either side ends it (§5.10.6.5).

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::super::buffers::Buffers;
use super::packet::{Header, Ports, op, shutdown};
use super::stream::{PeerGone, Stream};

/// How many bytes the guest may send on one connection before the Unix peer reads them.
pub(super) const BUF_ALLOC: u32 = 128 * 1024;

/// The guest is told of read bytes when they come to this many. Below it, it still has at
/// least the rest of [`BUF_ALLOC`] to go on with, so it cannot be stuck.
const CREDIT_STEP: u32 = BUF_ALLOC / 4;

/// A packet for the guest, but for its addresses and the credit in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Bytes of payload that were written to the guest's buffer.
    pub(super) len: u32,
}

/// What a connection put into a buffer of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Packet(Outgoing),
    /// There was nothing to say after all.
    Nothing,
    /// There is data, but the buffer has no room for any.
    NoRoom,
}

/// What is to become of a connection after a packet or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Continue,
    /// Both sides have ended it: the guest gets a RST, which confirms that, and it is gone.
    Finish,
    /// The guest ended it or never had it: it is gone.
    Forget,
    /// The guest broke the rules, or the host gave up: the guest gets a RST.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A host program connects: the guest is to be sent a REQUEST.
    Wanted,
    /// The guest was sent a REQUEST.
    Requested,
    /// A guest program connects: the guest is to be sent a RESPONSE.
    Accepted,
    Open,
}

/// One connection. A set of ends counts what its side will do no more, in the bits of
/// [`shutdown`], as that side would put it into a SHUTDOWN.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    /// Who wanted it.
    pub(super) from_guest: bool,
    state: State,
    /// None when the Unix peer is gone and the guest was told.
    stream: Option<Stream>,
    /// What the guest does no more.
    guest_ended: u32,
    /// What the Unix peer does no more.
    host_ended: u32,
    /// How much of `host_ended` the guest was told.
    told: u32,
    outbound: Outbound,
    inbound: Inbound,
    /// In the list of those that have something for the guest.
    pub(super) queued: bool,
    /// When the guest was told that the connection ended.
    pub(super) ended_at: Option<Instant>,
}

/// Bytes to the guest.
#[derive(Debug, Default)]
struct Outbound {
    sent: u32,
    /// From the guest's latest packet.
    buf_alloc: u32,
    fwd_cnt: u32,
    /// A CREDIT_REQUEST was sent since the guest last gave credit.
    asked: bool,
}

/// Bytes from the guest.
#[derive(Debug, Default)]
struct Inbound {
    received: u32,
    /// `fwd_cnt` of the latest packet to the guest.
    told: u32,
    /// The guest asked for credit.
    asked: bool,
}

impl Outbound {
    fn free(&self) -> u32 {
        let unread = self.sent.wrapping_sub(self.fwd_cnt);
        self.buf_alloc.saturating_sub(unread)
    }
}

impl Connection {
    /// A host program wants to talk to the guest.
    pub(super) fn from_host(ports: Ports, socket: UnixStream) -> Self {
        Self::new(ports, socket, State::Wanted)
    }

    /// A guest program wants to talk to the host, and `socket` is connected to what it asked
    /// for in `request`.
    pub(super) fn from_guest(socket: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(request.ports(), socket, State::Accepted);
        connection.take_credit(request);
        connection
    }

    fn new(ports: Ports, socket: UnixStream, state: State) -> Self {
        Self {
            ports,
            from_guest: state == State::Accepted,
            state,
            stream: Some(Stream::new(socket)),
            guest_ended: 0,
            host_ended: 0,
            told: 0,
            outbound: Outbound::default(),
            inbound: Inbound::default(),
            queued: false,
            ended_at: None,
        }
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    pub(super) fn into_stream(self) -> Option<Stream> {
        self.stream
    }

    /// Takes the stream out once the guest was told of both ends: nothing can pass any more.
    pub(super) fn take_ended_stream(&mut self, now: Instant) -> Option<Stream> {
        if self.told != shutdown::BOTH {
            return None;
        }
        self.ended_at.get_or_insert(now);
        self.stream.take()
    }

    /// How many bytes left our buffer so far.
    pub(super) fn fwd_cnt(&self) -> u32 {
        let unwritten = self.stream.as_ref().map_or(0, Stream::unwritten);
        let unwritten = u32::try_from(unwritten).expect("bounded by BUF_ALLOC");
        self.inbound.received.wrapping_sub(unwritten)
    }

    /// The guest accepted: tells the host program, with the host's port.
    fn on_response(&mut self) -> Next {
        let Some(stream) = &mut self.stream else {
            return Next::Abort;
        };
        let line = format!("OK {}\n", self.ports.host);
        // Nothing was ever written to this socket: a short line fits or the peer is gone.
        match (&mut stream.socket()).write(line.as_bytes()) {
            Ok(len) if len == line.len() => {
                self.state = State::Open;
                stream.readable = true;
                Next::Continue
            }
            _ => Next::Abort,
        }
    }

    /// Handles a packet of the guest that is for this connection.
    pub(super) fn on_packet(&mut self, header: &Header, payload: Buffers) -> Next {
        self.take_credit(header);
        match (self.state, header.op) {
            (_, op::RST) => Next::Forget,
            (State::Requested, op::RESPONSE) => self.on_response(),
            (State::Wanted | State::Requested, _) => Next::Abort,
            (State::Accepted | State::Open, op::RW) => self.on_data(header.len, payload),
            (State::Accepted | State::Open, op::SHUTDOWN) => self.on_shutdown(header.flags),
            (State::Accepted | State::Open, op::CREDIT_REQUEST) => {
                self.inbound.asked = true;
                Next::Continue
            }
            (State::Accepted | State::Open, op::CREDIT_UPDATE) => Next::Continue,
            _ => Next::Abort,
        }
    }

    fn take_credit(&mut self, header: &Header) {
        self.outbound.buf_alloc = header.buf_alloc;
        self.outbound.fwd_cnt = header.fwd_cnt;
        if self.outbound.free() > 0 {
            self.outbound.asked = false;
        }
    }

    fn on_data(&mut self, len: u32, payload: Buffers) -> Next {
        let unread = self.inbound.received.wrapping_sub(self.fwd_cnt());
        if self.guest_ended & shutdown::SEND != 0 || len > BUF_ALLOC - unread {
            return Next::Abort;
        }
        self.inbound.received = self.inbound.received.wrapping_add(len);
        if self.host_ended & shutdown::RECEIVE == 0
            && let Some(stream) = &mut self.stream
            && stream.write(payload) == Err(PeerGone)
        {
            self.on_peer_gone();
        }
        Next::Continue
    }

    fn on_shutdown(&mut self, flags: u32) -> Next {
        self.guest_ended |= flags & shutdown::BOTH;
        if flags & shutdown::RECEIVE != 0
            && let Some(stream) = &mut self.stream
        {
            stream.end_reading();
            // What the peer may still have to say, nobody hears.
            self.host_ended |= shutdown::SEND;
            self.told |= shutdown::SEND;
        }
        self.after_flush()
    }

    /// Passes the guest's end of sending on, once all that it sent before was written.
    fn after_flush(&mut self) -> Next {
        let Some(stream) = &self.stream else {
            return match self.guest_ended {
                shutdown::BOTH => Next::Finish,
                _ => Next::Continue,
            };
        };
        if self.guest_ended & shutdown::SEND == 0 || stream.unwritten() > 0 {
            return Next::Continue;
        }
        if self.guest_ended == shutdown::BOTH {
            return Next::Finish;
        }
        stream.end_writing();
        Next::Continue
    }

    /// The peer cannot be written to.
    fn on_peer_gone(&mut self) {
        self.host_ended |= shutdown::RECEIVE;
        if let Some(stream) = &mut self.stream {
            stream.discard_unwritten();
        }
    }

    /// The Unix socket may be read.
    pub(super) fn on_readable(&mut self) {
        if self.guest_ended & shutdown::RECEIVE == 0
            && let Some(stream) = &mut self.stream
        {
            stream.readable = true;
        }
    }

    /// The Unix socket may be written.
    pub(super) fn on_writable(&mut self) -> Next {
        let Some(stream) = &mut self.stream else {
            return Next::Continue;
        };
        stream.set_writable();
        if stream.flush() == Err(PeerGone) {
            self.on_peer_gone();
        }
        self.after_flush()
    }

    /// Both directions of the Unix socket are shut down, by the peer or by both sides.
    /// Data that the peer sent before can still be read.
    pub(super) fn on_hangup(&mut self) -> Next {
        match self.state {
            State::Wanted => Next::Forget,
            State::Requested => Next::Abort,
            State::Accepted | State::Open => {
                self.on_peer_gone();
                self.after_flush()
            }
        }
    }

    fn may_read(&self) -> bool {
        self.host_ended & shutdown::SEND == 0
            && self.stream.as_ref().is_some_and(|stream| stream.readable)
    }

    fn owes_credit(&self) -> bool {
        self.inbound.asked || self.fwd_cnt().wrapping_sub(self.inbound.told) >= CREDIT_STEP
    }

    /// Whether there may be a packet for the guest.
    pub(super) fn has_packet(&self) -> bool {
        match self.state {
            State::Wanted | State::Accepted => true,
            State::Requested => false,
            State::Open => {
                (self.may_read() && !(self.outbound.free() == 0 && self.outbound.asked))
                    || self.host_ended & !self.told != 0
                    || self.owes_credit()
            }
        }
    }

    /// Makes the next packet for the guest, with its payload in `room`.
    pub(super) fn fill(&mut self, room: &Buffers) -> Filled {
        match self.state {
            State::Wanted => {
                self.state = State::Requested;
                return control(op::REQUEST);
            }
            State::Accepted => {
                self.state = State::Open;
                return control(op::RESPONSE);
            }
            State::Requested => return Filled::Nothing,
            State::Open => {}
        }
        if self.may_read() {
            let filled = self.fill_data(room);
            if filled != Filled::Nothing {
                return filled;
            }
        }
        if self.host_ended & !self.told != 0 {
            self.told = self.host_ended;
            return Filled::Packet(Outgoing {
                op: op::SHUTDOWN,
                flags: self.told,
                len: 0,
            });
        }
        if self.owes_credit() {
            return control(op::CREDIT_UPDATE);
        }
        Filled::Nothing
    }

    fn fill_data(&mut self, room: &Buffers) -> Filled {
        let credit = self.outbound.free();
        if credit == 0 {
            if self.outbound.asked {
                return Filled::Nothing;
            }
            self.outbound.asked = true;
            return control(op::CREDIT_REQUEST);
        }
        if room.is_empty() {
            return Filled::NoRoom;
        }
        let Some(stream) = &mut self.stream else {
            return Filled::Nothing;
        };
        let read = if u64::from(credit) < room.len() {
            stream.read(&room.clone().take_front(credit.into()))
        } else {
            stream.read(room)
        };
        match read {
            Ok(0) => self.host_ended |= shutdown::SEND,
            Ok(len) => {
                let len = u32::try_from(len).expect("bounded by the credit");
                self.outbound.sent = self.outbound.sent.wrapping_add(len);
                return Filled::Packet(Outgoing {
                    op: op::RW,
                    flags: 0,
                    len,
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                // The peer closed its end without reading all it was sent.
                self.host_ended |= shutdown::SEND;
                self.on_peer_gone();
            }
        }
        Filled::Nothing
    }

    /// Takes note that a packet with this connection's credit goes to the guest, and returns
    /// the `fwd_cnt` in it.
    pub(super) fn tell_credit(&mut self) -> u32 {
        self.inbound.told = self.fwd_cnt();
        self.inbound.asked = false;
        self.inbound.told
    }
}

fn control(op: u16) -> Filled {
    Filled::Packet(Outgoing {
        op,
        flags: 0,
        len: 0,
    })
}
