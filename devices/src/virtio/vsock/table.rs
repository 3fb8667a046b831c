//! All connections of one device, and what they have for the guest.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use event_manager::EventSet;

use super::connection::{Connection, Next};
use super::handshake::{Handshake, Progress};
use super::packet::{HOST_CID, Header, Ports, TYPE_STREAM, op};
use super::stream::{Stream, flush_until};

mod packets;

/// The most Unix sockets that the device holds.
pub(super) const MAX_STREAMS: usize = 1024;

/// The most of them that the guest may open: it cannot keep the host out.
pub(super) const MAX_FROM_GUEST: usize = 512;

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
    Leftover(Leftover),
}

#[derive(Debug)]
struct Leftover {
    stream: Stream,
    from_guest: bool,
}

/// The table of connections.
#[derive(Debug)]
pub(super) struct Table {
    cid: u64,
    prefix: PathBuf,
    uses: HashMap<Id, Use>,
    by_ports: HashMap<Ports, Id>,
    /// How many of them the guest opened.
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
            Use::Leftover(leftover) => Some(leftover.stream.socket()),
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
            Some(Use::Leftover(Leftover { stream, .. })) => {
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
        let from_guest = connection.from_guest;
        match connection.into_stream() {
            Some(stream) if stream.unwritten() > 0 => {
                let leftover = Leftover { stream, from_guest };
                self.uses.insert(id, Use::Leftover(leftover));
            }
            stream => self.discard(stream, from_guest),
        }
    }

    /// Closes a socket that is not a connection.
    fn close(&mut self, id: Id) {
        match self.uses.remove(&id) {
            Some(Use::Handshake(handshake)) => {
                self.watches.push(Watch::Close(handshake.into_socket()));
            }
            Some(Use::Leftover(leftover)) => {
                self.discard(Some(leftover.stream), leftover.from_guest);
            }
            Some(Use::Connection(_)) | None => {}
        }
    }

    fn discard(&mut self, stream: Option<Stream>, from_guest: bool) {
        self.from_guest -= usize::from(from_guest);
        if let Some(stream) = stream {
            self.watches.push(Watch::Close(stream.into_ended_socket()));
        }
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

    /// Closes everything. What the guest sent is written as far as the programs read it
    /// until `deadline`.
    pub(super) fn close_all(self, deadline: Instant) {
        let streams = self.uses.into_values().filter_map(|use_| match use_ {
            Use::Handshake(_) => None,
            Use::Connection(connection) => connection.into_stream(),
            Use::Leftover(leftover) => Some(leftover.stream),
        });
        let (late, done): (Vec<_>, Vec<_>) = streams.partition(|stream| stream.unwritten() > 0);
        for stream in done.into_iter().chain(flush_until(late, deadline)) {
            drop(stream.into_ended_socket());
        }
    }

    #[cfg(test)]
    pub(super) fn load(&self) -> Load {
        let unwritten = self.uses.values().map(|use_| match use_ {
            Use::Handshake(_) => 0,
            Use::Connection(connection) => connection.stream().map_or(0, Stream::unwritten),
            Use::Leftover(leftover) => leftover.stream.unwritten(),
        });
        Load {
            streams: self.uses.len(),
            from_guest: self.from_guest,
            unwritten: unwritten.max().unwrap_or(0),
        }
    }
}

/// What a table holds.
#[cfg(test)]
pub(super) struct Load {
    pub(super) streams: usize,
    pub(super) from_guest: usize,
    /// The most bytes that wait for one stream.
    pub(super) unwritten: usize,
}
