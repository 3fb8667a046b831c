//! The guest's half of the device, for tests.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::super::packet::{HEADER_LEN, HOST_CID, Header, Ports, TYPE_STREAM, op};
use super::super::table::Table;
use super::super::worker::Handler;
use super::super::{Vsock, VsockSpec};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{Buffer, Driver, PATIENCE, Sent, wait_for};

pub(super) const CID: u64 = 3;

pub(super) const RECEIVE: usize = 0;
pub(super) const TRANSMIT: usize = 1;

/// What a Linux guest gives each connection.
pub(super) const GUEST_BUFFER: u32 = 256 * 1024;

/// A device with its driver, and a directory for Unix sockets.
pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) device: Vsock,
    dir: TempDir,
    rooms: HashMap<u16, Sent>,
}

/// A packet that the guest received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

/// A program of the host that connected to a port of the guest.
pub(super) struct Program {
    pub(super) socket: UnixStream,
    pub(super) ports: Ports,
}

impl Guest {
    /// A guest whose driver is up, and has `rooms` buffers of `room` bytes for packets.
    pub(super) fn new(rooms: usize, room: u32) -> Self {
        let mut guest = Self::without_driver();
        guest.start(rooms, room);
        guest
    }

    pub(super) fn without_driver() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("connect")).unwrap();
        let device = Vsock::new(VsockSpec {
            cid: CID,
            listener,
            prefix: dir.path().join("port"),
        })
        .unwrap();
        Self {
            driver: Driver::for_device(&device),
            device,
            dir,
            rooms: HashMap::new(),
        }
    }

    pub(super) fn start(&mut self, rooms: usize, room: u32) {
        for _ in 0..rooms {
            self.add_room(&[Buffer::Writable(room)]);
        }
        self.device.activate(self.driver.activation()).unwrap();
    }

    pub(super) fn add_room(&mut self, buffers: &[Buffer]) {
        let sent = self.driver.queues[RECEIVE].add(buffers);
        self.rooms.insert(sent.head, sent);
    }

    pub(super) fn restart_driver(&mut self) {
        self.device.reset();
        self.rooms.clear();
        for queue in &mut self.driver.queues {
            queue.restart();
        }
    }

    /// Listens at a port of the host.
    pub(super) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.port_path(port)).unwrap()
    }

    fn port_path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("port_{port}"))
    }

    /// A Unix connection to the device.
    pub(super) fn dial(&self) -> UnixStream {
        let socket = UnixStream::connect(self.dir.path().join("connect")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Connects a program of the host to `port` of the guest, which accepts.
    pub(super) fn connect_from_host(&mut self, port: u32, buf_alloc: u32) -> Program {
        let mut socket = self.dial();
        writeln!(socket, "CONNECT {port}").unwrap();
        let request = self.receive();
        assert_eq!(request.header.op, op::REQUEST);
        assert_eq!(request.header.dst_port, port);
        let ports = Ports {
            host: request.header.src_port,
            guest: port,
        };
        self.send(
            &Header {
                buf_alloc,
                ..header(op::RESPONSE, ports)
            },
            b"",
        );
        assert_eq!(read_line(&mut socket), format!("OK {}\n", ports.host));
        Program { socket, ports }
    }

    /// Connects the guest from `guest_port` to the host's `port`, where `listener` listens.
    pub(super) fn connect_from_guest(
        &mut self,
        listener: &UnixListener,
        ports: Ports,
        buf_alloc: u32,
    ) -> UnixStream {
        self.send(
            &Header {
                buf_alloc,
                ..header(op::REQUEST, ports)
            },
            b"",
        );
        let response = self.receive();
        assert_eq!(response.header.op, op::RESPONSE);
        assert_eq!(response.ports(), ports);
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Sends a packet, and waits until the device has taken it.
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        let header = Header {
            len: u32::try_from(payload.len()).unwrap(),
            ..*header
        };
        let mut packet = header.to_bytes().to_vec();
        packet.extend(payload);
        self.driver.queues[TRANSMIT].request(&[Buffer::Readable(&packet)]);
    }

    /// The next packet, if there is one.
    pub(super) fn try_receive(&mut self) -> Option<Received> {
        let (head, len) = self.driver.queues[RECEIVE].try_used()?;
        let room = self.rooms.remove(&head).expect("a buffer that was added");
        let mut bytes = Vec::new();
        for &(addr, len) in &room.buffers {
            bytes.extend(self.driver.read(addr, len.try_into().unwrap()));
        }
        let again: Vec<_> = room
            .buffers
            .iter()
            .map(|&(addr, len)| Buffer::WritableAt(addr, len))
            .collect();
        self.add_room(&again);
        self.driver.queues[RECEIVE].kick();
        let header = Header::from_bytes(bytes.first_chunk().unwrap());
        assert_eq!(len, HEADER_LEN + header.len, "{header:?}");
        assert_eq!(header.dst_cid, CID);
        let payload = bytes[HEADER_LEN as usize..len as usize].to_vec();
        Some(Received { header, payload })
    }

    /// The next packet.
    pub(super) fn receive(&mut self) -> Received {
        wait_for("a packet", || self.try_receive())
    }

    /// The next packet, which must be an `op` for `ports`.
    pub(super) fn expect(&mut self, op: u16, ports: Ports) -> Received {
        let received = self.receive();
        assert_eq!(
            (received.header.op, received.ports()),
            (op, ports),
            "{received:?}"
        );
        received
    }

    /// Checks that no packet comes within a moment.
    pub(super) fn expect_silence(&mut self) {
        std::thread::sleep(Duration::from_millis(30));
        if let Some(received) = self.try_receive() {
            panic!("unexpected: {received:?}");
        }
    }
}

impl Received {
    pub(super) fn ports(&self) -> Ports {
        Ports {
            host: self.header.src_port,
            guest: self.header.dst_port,
        }
    }
}

/// A device without its thread.
pub(super) fn handler(driver: &Driver, dir: &Path) -> Handler {
    let listener = UnixListener::bind(dir.join("connect")).unwrap();
    let table = Table::new(CID, dir.join("port"));
    Handler::new(driver.activation(), listener, table).unwrap()
}

/// A packet of the guest.
pub(super) fn header(op: u16, ports: Ports) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        kind: TYPE_STREAM,
        op,
        buf_alloc: GUEST_BUFFER,
        ..Header::default()
    }
}

pub(super) fn read_line(socket: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && socket.read(&mut byte).unwrap() == 1 {
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

/// Bytes of which no stretch looks like another.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Reads until the end of file.
pub(super) fn read_all(socket: &mut UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    socket.read_to_end(&mut data).unwrap();
    data
}
