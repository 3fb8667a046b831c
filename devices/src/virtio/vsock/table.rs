//! All connections of one device, and what they have for the guest.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use event_manager::EventSet;

use super::super::buffers::Buffers;
use super::super::vring::Served;
use super::connection::{BUF_ALLOC, Connection, Filled, Next};
use super::handshake::{Handshake, Progress};
use super::packet::{HEADER_LEN, HOST_CID, Header, Ports, TYPE_STREAM, op};
use super::stream::{Stream, connect};

/// The most Unix sockets that the device holds.
pub(super) const MAX_STREAMS: usize = 1024;

/// The most of them that the guest may open: it cannot keep the host out.
pub(super) const MAX_FROM_GUEST: usize = 512;

/// The most RSTs to packets of no connection that wait for the guest to have room. More of
/// those packets go unanswered.
const MAX_RESETS: usize = 256;

/// How long a host program may take to say what it wants.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long an ended connection is remembered for the guest to confirm it.
const LINGER_TIME: Duration = Duration::from_secs(10);

/// Host ports of connections that the host opens, up from here; those below are for services.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Names a Unix socket in events: unique among those that are open.
pub(super) type Id = u32;

/// Identifiers below this are for others.
pub(super) const FIRST_ID: Id = 16;

/// A change to the set of Unix sockets that are watched.
#[derive(Debug)]
pub(super) enum Watch {
    /// Watch the socket with this identifier.
    Add(Id),
    /// Stop, and close it.
    Close(UnixStream),
}

/// What a Unix socket is for.
#[derive(Debug)]
enum Use {
    Handshake(Handshake),
    Connection(Connection),
    /// The guest is done with the connection, but not all it sent was written.
    Leftover(Stream),
}

/// The table of connections.
#[derive(Debug)]
pub(super) struct Table {
    cid: u64,
    prefix: PathBuf,
    uses: HashMap<Id, Use>,
    by_ports: HashMap<Ports, Id>,
    /// How many connections the guest opened.
    from_guest: usize,
    /// Connections that have something for the guest, in turn.
    ready: VecDeque<Id>,
    resets: VecDeque<Header>,
    next_id: Id,
    next_host_port: u32,
    watches: Vec<Watch>,
    /// The listener may hold connections that were not accepted yet.
    pub(super) backlog: bool,
    /// The host had nothing left to accept a connection with.
    exhausted: bool,
    /// Something is timed: [`Self::tick`] wants to be called every second or so.
    pub(super) timed: bool,
}

impl Table {
    /// No connections yet, for the guest with this CID; its connections to port P go to the
    /// Unix socket `{prefix}_P`.
    pub(super) fn new(cid: u64, prefix: PathBuf) -> Self {
        Self {
            cid,
            prefix,
            uses: HashMap::new(),
            by_ports: HashMap::new(),
            from_guest: 0,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_id: FIRST_ID,
            next_host_port: FIRST_HOST_PORT,
            watches: Vec::new(),
            backlog: true,
            exhausted: false,
            timed: false,
        }
    }

    /// The changes of what must be watched since the last time.
    pub(super) fn take_watches(&mut self) -> Vec<Watch> {
        std::mem::take(&mut self.watches)
    }

    /// The Unix socket with this identifier.
    pub(super) fn socket(&self, id: Id) -> Option<&UnixStream> {
        match self.uses.get(&id)? {
            Use::Handshake(handshake) => Some(handshake.socket()),
            Use::Connection(connection) => connection.stream().map(Stream::socket),
            Use::Leftover(stream) => Some(stream.socket()),
        }
    }

    /// Accepts what waits at `listener`, as far as there is room. The rest goes on waiting
    /// there.
    pub(super) fn accept(&mut self, listener: &UnixListener, now: Instant) {
        while self.backlog && !self.exhausted && self.uses.len() < MAX_STREAMS {
            let accepted = listener
                .accept()
                .and_then(|(socket, _)| socket.set_nonblocking(true).map(|()| socket));
            match accepted {
                Ok(socket) => {
                    let id = self.unused_id();
                    self.uses
                        .insert(id, Use::Handshake(Handshake::new(socket, now)));
                    self.watches.push(Watch::Add(id));
                    self.timed = true;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.backlog = false,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        log::warn!("vsock: cannot accept a connection: {error}");
                        self.exhausted = true;
                        self.timed = true;
                    }
                },
            }
        }
    }

    fn unused_id(&mut self) -> Id {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(FIRST_ID);
            if !self.uses.contains_key(&id) {
                return id;
            }
        }
    }

    fn unused_host_port(&mut self) -> u32 {
        loop {
            let port = self.next_host_port;
            self.next_host_port = match port {
                // VMADDR_PORT_ANY (-1) names no port.
                0xffff_fffe => FIRST_HOST_PORT,
                port => port + 1,
            };
            if !self.by_ports.keys().any(|ports| ports.host == port) {
                return port;
            }
        }
    }

    /// Handles an event of the Unix socket `id`.
    pub(super) fn on_event(&mut self, id: Id, events: EventSet, now: Instant) {
        let hangup = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match self.uses.get_mut(&id) {
            Some(Use::Handshake(handshake)) => match handshake.advance() {
                Progress::Waiting if !hangup => {}
                Progress::Port(port) if !hangup => self.open_from_host(id, port, now),
                _ => self.close(id),
            },
            Some(Use::Connection(connection)) => {
                if hangup || events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
                    connection.on_readable();
                }
                let mut next = Next::Continue;
                if events.contains(EventSet::OUT) {
                    next = connection.on_writable();
                }
                if hangup && next == Next::Continue {
                    next = connection.on_hangup();
                }
                self.settle(id, next, now);
            }
            Some(Use::Leftover(stream)) => {
                stream.set_writable();
                if hangup || stream.flush().is_err() || stream.unwritten() == 0 {
                    self.close(id);
                }
            }
            None => {}
        }
    }

    /// Ends what is at the Unix socket `id`: it cannot be watched.
    pub(super) fn give_up(&mut self, id: Id, now: Instant) {
        self.settle(id, Next::Abort, now);
        self.close(id);
    }

    fn open_from_host(&mut self, id: Id, port: u32, now: Instant) {
        let Some(Use::Handshake(handshake)) = self.uses.remove(&id) else {
            return;
        };
        let ports = Ports {
            host: self.unused_host_port(),
            guest: port,
        };
        let connection = Connection::from_host(ports, handshake.into_socket());
        self.uses.insert(id, Use::Connection(connection));
        self.by_ports.insert(ports, id);
        self.settle(id, Next::Continue, now);
    }

    /// Handles a packet of the guest. `payload` is as long as `header` says.
    pub(super) fn on_packet(&mut self, header: &Header, payload: Buffers, now: Instant) {
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
    pub(super) fn on_short_packet(&mut self, header: &Header, now: Instant) {
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

    fn push_reset(&mut self, reset: Header) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        }
    }

    /// Does what is `next` for the connection `id`.
    fn settle(&mut self, id: Id, next: Next, now: Instant) {
        let Some(Use::Connection(connection)) = self.uses.get_mut(&id) else {
            return;
        };
        match next {
            Next::Continue => {
                if let Some(stream) = connection.take_ended_stream(now) {
                    self.watches.push(Watch::Close(stream.into_ended_socket()));
                    self.timed = true;
                }
                if !connection.queued && connection.has_packet() {
                    connection.queued = true;
                    self.ready.push_back(id);
                }
            }
            Next::Finish | Next::Abort => {
                let ports = connection.ports;
                self.push_reset(Header {
                    src_cid: HOST_CID,
                    dst_cid: self.cid,
                    src_port: ports.host,
                    dst_port: ports.guest,
                    kind: TYPE_STREAM,
                    op: op::RST,
                    ..Header::default()
                });
                self.remove(id);
            }
            Next::Forget => self.remove(id),
        }
    }

    /// Takes the connection `id` away from the guest. What it sent before still goes out.
    fn remove(&mut self, id: Id) {
        let Some(Use::Connection(connection)) = self.uses.remove(&id) else {
            return;
        };
        self.by_ports.remove(&connection.ports);
        if connection.from_guest {
            self.from_guest -= 1;
        }
        match connection.into_stream() {
            Some(stream) if stream.unwritten() > 0 => {
                self.uses.insert(id, Use::Leftover(stream));
            }
            Some(stream) => self.watches.push(Watch::Close(stream.into_ended_socket())),
            None => {}
        }
    }

    /// Closes a socket that is not a connection.
    fn close(&mut self, id: Id) {
        match self.uses.remove(&id) {
            Some(Use::Handshake(handshake)) => {
                self.watches.push(Watch::Close(handshake.into_socket()));
            }
            Some(Use::Leftover(stream)) => {
                self.watches.push(Watch::Close(stream.into_ended_socket()));
            }
            Some(Use::Connection(_)) | None => {}
        }
    }

    /// Whether there may be packets for the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Puts the next packet for the guest in `buffer`, if there is one.
    pub(super) fn fill(&mut self, mut buffer: Buffers, now: Instant) -> Served {
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

    /// Ends what took too long.
    pub(super) fn tick(&mut self, now: Instant) {
        self.exhausted = false;
        self.timed = false;
        let mut late = Vec::new();
        for (&id, use_) in &self.uses {
            let (since, limit) = match use_ {
                Use::Handshake(handshake) => (Some(handshake.since), HANDSHAKE_TIME),
                Use::Connection(connection) => (connection.ended_at, LINGER_TIME),
                Use::Leftover(_) => (None, LINGER_TIME),
            };
            let Some(since) = since else { continue };
            self.timed = true;
            if now.duration_since(since) >= limit {
                late.push(id);
            }
        }
        for id in late {
            self.remove_late(id);
        }
    }

    fn remove_late(&mut self, id: Id) {
        match self.uses.get(&id) {
            Some(Use::Connection(_)) => self.remove(id),
            _ => self.close(id),
        }
    }

    /// How many sockets there are, and the most bytes that wait for one of them.
    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        let unwritten = self.uses.values().map(|use_| match use_ {
            Use::Handshake(_) => 0,
            Use::Connection(connection) => connection.stream().map_or(0, Stream::unwritten),
            Use::Leftover(stream) => stream.unwritten(),
        });
        (self.uses.len(), unwritten.max().unwrap_or(0))
    }

    /// Closes everything. What the guest sent is written until `deadline`.
    pub(super) fn close_all(self, deadline: Instant) {
        for use_ in self.uses.into_values() {
            let stream = match use_ {
                Use::Handshake(_) => continue,
                Use::Connection(connection) => connection.into_stream(),
                Use::Leftover(stream) => Some(stream),
            };
            if let Some(mut stream) = stream {
                stream.flush_until(deadline);
                drop(stream.into_ended_socket());
            }
        }
    }
}
