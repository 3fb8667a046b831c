//! Packets from and to the guest.

use std::time::Instant;

use super::super::super::buffers::Buffers;
use super::super::super::vring::Served;
use super::super::connection::{BUF_ALLOC, Connection, Filled, Next};
use super::super::packet::{HEADER_LEN, HOST_CID, Header, Ports, TYPE_STREAM, op};
use super::super::stream::connect;
use super::{MAX_FROM_GUEST, MAX_STREAMS, Table, Use, Watch};

/// The most RSTs to packets of no connection that wait for the guest to have room. More of
/// those packets go unanswered.
const MAX_RESETS: usize = 256;

impl Table {
    /// Handles a packet of the guest. `payload` is as long as `header` says.
    pub(in super::super) fn on_packet(&mut self, header: &Header, payload: Buffers, now: Instant) {
        if header.src_cid != self.cid {
            // Nobody is there to be answered.
            return;
        }
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            self.refuse(header);
            return;
        }
        if header.op == op::REQUEST {
            self.forget_ended(header.ports());
        }
        let Some(&id) = self.by_ports.get(&header.ports()) else {
            if header.op == op::REQUEST {
                self.open_from_guest(header, now);
            } else {
                self.refuse(header);
            }
            return;
        };
        if let Some(Use::Connection(connection)) = self.uses.get_mut(&id) {
            let next = connection.on_packet(header, payload);
            self.settle(id, next, now);
        }
    }

    /// Handles a packet of the guest that holds less payload than its header says: the stream
    /// has a hole, so it ends.
    pub(in super::super) fn on_short_packet(&mut self, header: &Header, now: Instant) {
        match self.by_ports.get(&header.ports()) {
            Some(&id) if header.src_cid == self.cid => self.settle(id, Next::Abort, now),
            _ => self.on_packet(header, Buffers::default(), now),
        }
    }

    /// Lets the guest use the ports of a connection again that it has not confirmed the end
    /// of.
    fn forget_ended(&mut self, ports: Ports) {
        if let Some(&id) = self.by_ports.get(&ports)
            && let Some(Use::Connection(connection)) = self.uses.get(&id)
            && connection.ended_at.is_some()
        {
            self.remove(id);
        }
    }

    fn open_from_guest(&mut self, request: &Header, now: Instant) {
        if self.from_guest >= MAX_FROM_GUEST || self.uses.len() >= MAX_STREAMS {
            log::warn!("vsock: the guest has too many connections");
            self.refuse(request);
            return;
        }
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("_{}", request.dst_port));
        match connect(path.as_ref()) {
            Ok(socket) => {
                let id = self.unused_id();
                let connection = Connection::from_guest(socket, request);
                self.uses.insert(id, Use::Connection(connection));
                self.by_ports.insert(request.ports(), id);
                self.from_guest += 1;
                self.watches.push(Watch::Add(id));
                self.settle(id, Next::Continue, now);
            }
            Err(error) => {
                log::debug!("vsock: {} cannot be reached: {error}", path.display());
                self.refuse(request);
            }
        }
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.push_reset(header.reset());
        }
    }

    pub(super) fn push_reset(&mut self, reset: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        }
    }

    /// Whether there may be packets for the guest.
    pub(in super::super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Puts the next packet for the guest in `buffer`, if there is one.
    pub(in super::super) fn fill(&mut self, mut buffer: Buffers, now: Instant) -> Served {
        let mut head = buffer.take_front(HEADER_LEN.into());
        if head.len() < u64::from(HEADER_LEN) {
            return Served::Used(0);
        }
        if let Some(reset) = self.resets.pop_front() {
            head.write(&reset.to_bytes());
            return Served::Used(HEADER_LEN);
        }
        while let Some(&id) = self.ready.front() {
            let Some(Use::Connection(connection)) = self.uses.get_mut(&id) else {
                self.ready.pop_front();
                continue;
            };
            let outgoing = match connection.fill(&buffer) {
                Filled::Packet(outgoing) => Some(outgoing),
                Filled::Nothing => None,
                Filled::NoRoom => return Served::Used(0),
            };
            self.ready.pop_front();
            connection.queued = false;
            let header = outgoing.map(|outgoing| Header {
                src_cid: HOST_CID,
                dst_cid: self.cid,
                src_port: connection.ports.host,
                dst_port: connection.ports.guest,
                len: outgoing.len,
                kind: TYPE_STREAM,
                op: outgoing.op,
                flags: outgoing.flags,
                buf_alloc: BUF_ALLOC,
                fwd_cnt: connection.tell_credit(),
            });
            self.settle(id, Next::Continue, now);
            if let Some(header) = header {
                head.write(&header.to_bytes());
                return Served::Used(HEADER_LEN + header.len);
            }
        }
        Served::Later
    }
}
