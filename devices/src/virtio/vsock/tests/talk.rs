//! Well-behaved guests and programs.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::super::connection::BUF_ALLOC;
use super::super::packet::{Header, Ports, op, shutdown};
use super::guest::{GUEST_BUFFER, Guest, header, noise, read_all, read_line};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::wait_for;

const ROOM: u32 = 4096;

/// The guest's end of one connection that keeps to its credit.
struct Peer {
    ports: Ports,
    sent: u32,
    received: Vec<u8>,
    buf_alloc: u32,
    /// From the device's packets.
    device_buf_alloc: u32,
    device_fwd_cnt: u32,
    /// What the device will do no more.
    ended: u32,
    reset: bool,
    credit_requests: usize,
}

impl Peer {
    fn new(ports: Ports, buf_alloc: u32) -> Self {
        Self {
            ports,
            sent: 0,
            received: Vec::new(),
            buf_alloc,
            device_buf_alloc: BUF_ALLOC,
            device_fwd_cnt: 0,
            ended: 0,
            reset: false,
            credit_requests: 0,
        }
    }

    fn header(&self, op: u16) -> Header {
        Header {
            buf_alloc: self.buf_alloc,
            fwd_cnt: u32::try_from(self.received.len()).unwrap(),
            ..header(op, self.ports)
        }
    }

    fn credit(&self) -> u32 {
        self.device_buf_alloc - self.sent.wrapping_sub(self.device_fwd_cnt)
    }

    /// Sends as much of `data` as there is credit for, and takes that away.
    fn send(&mut self, guest: &mut Guest, data: &mut &[u8]) {
        while !data.is_empty() && self.credit() > 0 {
            let len = data.len().min(self.credit().min(65536).try_into().unwrap());
            let (now, later) = data.split_at(len);
            guest.send(&self.header(op::RW), now);
            self.sent += u32::try_from(len).unwrap();
            *data = later;
            self.poll(guest);
        }
    }

    fn poll(&mut self, guest: &mut Guest) {
        while let Some(packet) = guest.try_receive() {
            assert_eq!(packet.ports(), self.ports);
            self.take(&packet.header, &packet.payload);
        }
    }

    fn take(&mut self, header: &Header, payload: &[u8]) {
        self.device_buf_alloc = header.buf_alloc;
        self.device_fwd_cnt = header.fwd_cnt;
        match header.op {
            op::RW => {
                assert_eq!(self.ended & shutdown::SEND, 0, "data after the end");
                self.received.extend(payload);
            }
            op::SHUTDOWN => self.ended |= header.flags,
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => self.credit_requests += 1,
            op::RST => self.reset = true,
            op => panic!("unexpected operation {op}"),
        }
    }
}

#[test]
fn a_host_program_and_a_guest_program_talk() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1024, GUEST_BUFFER);
    program.socket.write_all(b"how are you?").unwrap();
    assert_eq!(guest.expect(op::RW, program.ports).payload, b"how are you?");
    guest.send(&header(op::RW, program.ports), b"well, ");
    guest.send(&header(op::RW, program.ports), b"thanks");
    let mut answer = [0; 12];
    program.socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"well, thanks");
    let end = Header {
        flags: shutdown::BOTH,
        ..header(op::SHUTDOWN, program.ports)
    };
    guest.send(&end, b"");
    assert_eq!(read_all(&mut program.socket), b"");
    guest.expect(op::RST, program.ports);
}

#[test]
fn the_guest_reaches_who_listens_at_a_port_of_the_host() {
    let mut guest = Guest::new(16, ROOM);
    let listener = guest.listen(53);
    let ports = Ports {
        host: 53,
        guest: 40000,
    };
    let mut socket = guest.connect_from_guest(&listener, ports, GUEST_BUFFER);
    guest.send(&header(op::RW, ports), b"query");
    let mut query = [0; 5];
    socket.read_exact(&mut query).unwrap();
    assert_eq!(&query, b"query");
    socket.write_all(b"answer").unwrap();
    drop(socket);
    assert_eq!(guest.expect(op::RW, ports).payload, b"answer");
    let mut end = guest.expect(op::SHUTDOWN, ports);
    // A process that another test has forked may have kept the socket open until now.
    if end.header.flags == shutdown::SEND {
        end = guest.expect(op::SHUTDOWN, ports);
    }
    assert_eq!(end.header.flags, shutdown::BOTH);
    guest.send(&header(op::RST, ports), b"");
    guest.expect_silence();
}

#[test]
fn nobody_listens() {
    let mut guest = Guest::new(16, ROOM);
    let ports = Ports { host: 54, guest: 1 };
    guest.send(&header(op::REQUEST, ports), b"");
    guest.expect(op::RST, ports);

    let mut socket = guest.dial();
    socket.write_all(b"CONNECT 99\n").unwrap();
    let request = guest.receive();
    guest.send(&header(op::RST, request.ports()), b"");
    assert_eq!(read_line(&mut socket), "");
}

#[test]
fn programs_that_come_before_the_driver_wait_for_it() {
    let mut guest = Guest::without_driver();
    let mut early: Vec<_> = (0..5).map(|_| guest.dial()).collect();
    for (port, socket) in (100..).zip(&mut early) {
        writeln!(socket, "CONNECT {port}").unwrap();
    }
    guest.start(16, ROOM);
    let mut ports = Vec::new();
    for _ in 0..5 {
        let request = guest.receive();
        assert_eq!(request.header.op, op::REQUEST);
        guest.send(&header(op::RESPONSE, request.ports()), b"");
        ports.push(request.ports());
    }
    for (port, socket) in (100..).zip(&mut early) {
        let ports = ports.iter().find(|ports| ports.guest == port).unwrap();
        assert_eq!(read_line(socket), format!("OK {}\n", ports.host));
    }
    ports.sort_by_key(|ports| ports.host);
    ports.dedup_by_key(|ports| ports.host);
    assert_eq!(ports.len(), 5, "host ports are unique");
}

/// Has the guest send 3 MiB to a program that reads slowly, and then end with `flags`.
fn send_much(flags: u32) {
    let mut guest = Guest::new(16, ROOM);
    let program = guest.connect_from_host(1, GUEST_BUFFER);
    let data = noise(3 << 20, 1);
    let mut socket = program.socket;
    let reader = thread::spawn(move || {
        let mut got = Vec::<u8>::new();
        let mut part = vec![0; 30_000];
        loop {
            thread::sleep(Duration::from_micros(300));
            match socket.read(&mut part).unwrap() {
                0 => return got,
                len => got.extend(&part[..len]),
            }
        }
    });
    let mut peer = Peer::new(program.ports, GUEST_BUFFER);
    let mut rest = &data[..];
    let mut stalls = 0;
    wait_for("credit for everything", || {
        peer.send(&mut guest, &mut rest);
        stalls += usize::from(peer.credit() == 0);
        peer.poll(&mut guest);
        rest.is_empty().then_some(())
    });
    assert!(stalls > 0, "the credit was never used up");
    let end = Header {
        flags,
        ..peer.header(op::SHUTDOWN)
    };
    guest.send(&end, b"");
    wait_for("the end", || {
        peer.poll(&mut guest);
        (peer.reset || peer.ended == shutdown::BOTH).then_some(())
    });
    assert!(reader.join().unwrap() == data);
}

#[test]
fn all_that_the_guest_sent_arrives_before_the_end_of_file() {
    send_much(shutdown::BOTH);
    send_much(shutdown::SEND);
}

#[test]
fn all_that_a_program_sent_arrives_before_the_shutdown() {
    let mut guest = Guest::new(16, ROOM);
    let buf_alloc = 64 * 1024;
    let program = guest.connect_from_host(1, buf_alloc);
    let data = noise(3 << 20, 2);
    let sent = data.clone();
    let mut socket = program.socket;
    let writer = thread::spawn(move || socket.write_all(&sent).unwrap());
    let mut peer = Peer::new(program.ports, buf_alloc);
    let mut credited = 0;
    wait_for("the end", || {
        peer.poll(&mut guest);
        assert!(peer.received.len() - credited <= buf_alloc as usize);
        if peer.received.len() - credited == buf_alloc as usize && peer.credit_requests > 0 {
            peer.credit_requests = 0;
            credited = peer.received.len();
            guest.send(&peer.header(op::CREDIT_UPDATE), b"");
        }
        // The last of it does not fill the buffer.
        (peer.ended == shutdown::BOTH).then_some(())
    });
    writer.join().unwrap();
    assert!(peer.received == data);
    guest.send(&peer.header(op::RST), b"");
    guest.expect_silence();
}

#[test]
fn either_side_may_end_its_half_first() {
    let mut guest = Guest::new(16, ROOM);
    // The guest ends its half, as a filter does with its output.
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let ports = program.ports;
    guest.send(&header(op::RW, ports), b"last words");
    let end = Header {
        flags: shutdown::SEND,
        ..header(op::SHUTDOWN, ports)
    };
    guest.send(&end, b"");
    assert_eq!(read_all(&mut program.socket), b"last words");
    program.socket.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(op::RW, ports).payload, b"still here");
    drop(program.socket);
    let end = guest.expect(op::SHUTDOWN, ports);
    assert_eq!(end.header.flags, shutdown::BOTH);
    guest.send(&header(op::RST, ports), b"");

    // The program ends its half, as one does that has sent all its input.
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let ports = program.ports;
    program.socket.write_all(b"input").unwrap();
    program.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::RW, ports).payload, b"input");
    let end = guest.expect(op::SHUTDOWN, ports);
    assert_eq!(end.header.flags, shutdown::SEND);
    guest.send(&header(op::RW, ports), b"output");
    let end = Header {
        flags: shutdown::BOTH,
        ..header(op::SHUTDOWN, ports)
    };
    guest.send(&end, b"");
    assert_eq!(read_all(&mut program.socket), b"output");
    guest.expect(op::RST, ports);
}

#[test]
fn a_program_cannot_send_what_the_guest_will_not_receive() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let end = Header {
        flags: shutdown::RECEIVE,
        ..header(op::SHUTDOWN, program.ports)
    };
    guest.send(&end, b"");
    wait_for("a broken pipe", || program.socket.write_all(b"x").err());
    guest.send(&header(op::RW, program.ports), b"one way");
    let mut data = [0; 7];
    program.socket.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"one way");
}

#[test]
fn a_program_that_stops_reading_tells_the_guest() {
    let mut guest = Guest::new(16, ROOM);
    let program = guest.connect_from_host(1, GUEST_BUFFER);
    program.socket.shutdown(Shutdown::Read).unwrap();
    guest.send(&header(op::RW, program.ports), b"for nobody");
    let end = guest.expect(op::SHUTDOWN, program.ports);
    assert_eq!(end.header.flags, shutdown::RECEIVE);
}

#[test]
fn input_that_nobody_read_does_not_spoil_the_end_of_file() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, 0);
    program.socket.write_all(b"never read").unwrap();
    guest.expect(op::CREDIT_REQUEST, program.ports);
    guest.send(&header(op::RST, program.ports), b"");
    assert_eq!(read_all(&mut program.socket), b"");
}

/// Has the guest send until it has no credit left, and returns what it sent.
fn send_until_full(guest: &mut Guest, ports: Ports) -> Vec<u8> {
    let mut peer = Peer::new(ports, GUEST_BUFFER);
    let data = noise(2 << 20, ports.host.into());
    let mut rest = &data[..];
    while peer.credit() > 0 {
        peer.send(guest, &mut rest);
        thread::sleep(Duration::from_millis(5));
        peer.poll(guest);
    }
    data[..data.len() - rest.len()].to_vec()
}

#[test]
fn an_end_is_confirmed_when_everything_was_written() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let sent = send_until_full(&mut guest, program.ports);
    let end = Header {
        flags: shutdown::BOTH,
        ..header(op::SHUTDOWN, program.ports)
    };
    guest.send(&end, b"");
    guest.expect_silence();
    assert!(read_all(&mut program.socket) == sent);
    wait_for("a reset", || {
        guest.try_receive().filter(|p| p.header.op == op::RST)
    });
}

#[test]
fn what_was_sent_before_a_reset_still_arrives() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let sent = send_until_full(&mut guest, program.ports);
    guest.send(&header(op::RST, program.ports), b"");
    // The guest may use its port again at once.
    guest.send(&header(op::RW, program.ports), b"unknown");
    guest.expect(op::RST, program.ports);
    assert!(read_all(&mut program.socket) == sent);
}

#[test]
fn a_slow_program_does_not_hold_up_another() {
    let mut guest = Guest::new(16, ROOM);
    let slow = guest.connect_from_host(1, GUEST_BUFFER);
    let mut quick = guest.connect_from_host(2, GUEST_BUFFER);
    let mut peer = Peer::new(slow.ports, GUEST_BUFFER);
    let data = noise(2 << 20, 4);
    let mut rest = &data[..];
    peer.send(&mut guest, &mut rest);
    guest.send(&header(op::RW, quick.ports), b"hello");
    let mut hello = [0; 5];
    quick.socket.read_exact(&mut hello).unwrap();
    quick.socket.write_all(&hello).unwrap();
    let answer = wait_for("an answer", || {
        guest.try_receive().filter(|p| p.header.op == op::RW)
    });
    assert_eq!(answer.payload, b"hello");
    drop(slow.socket);
}

#[test]
fn the_guest_is_told_its_credit_when_it_asks() {
    let mut guest = Guest::new(16, ROOM);
    let program = guest.connect_from_host(1, GUEST_BUFFER);
    guest.send(&header(op::RW, program.ports), b"12345");
    guest.expect_silence();
    guest.send(&header(op::CREDIT_REQUEST, program.ports), b"");
    let update = guest.expect(op::CREDIT_UPDATE, program.ports);
    assert_eq!(update.header.buf_alloc, BUF_ALLOC);
    assert_eq!(update.header.fwd_cnt, 5);
}

#[test]
fn a_hundred_connections_at_once() {
    let mut guest = Guest::new(64, ROOM);
    let programs: Vec<_> = (0..100)
        .map(|port| guest.connect_from_host(port, GUEST_BUFFER))
        .collect();
    let mut peers: HashMap<Ports, Peer> = programs
        .iter()
        .map(|program| (program.ports, Peer::new(program.ports, GUEST_BUFFER)))
        .collect();
    let threads: Vec<_> = (0..)
        .zip(programs)
        .map(|(seed, program)| thread::spawn(move || echo_through_guest(program.socket, seed)))
        .collect();
    let mut open = peers.len();
    while open > 0 {
        let packet = guest.receive();
        let peer = peers.get_mut(&packet.ports()).unwrap();
        peer.take(&packet.header, &packet.payload);
        if packet.header.op == op::RW {
            let header = peer.header(op::RW);
            guest.send(&header, &packet.payload);
        }
        if packet.header.op == op::SHUTDOWN {
            let end = Header {
                flags: shutdown::BOTH,
                ..peer.header(op::SHUTDOWN)
            };
            guest.send(&end, b"");
        }
        open -= usize::from(packet.header.op == op::RST);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Sends noise to a guest that returns it.
fn echo_through_guest(mut socket: UnixStream, seed: u64) {
    let data = noise(20_000, seed);
    socket.write_all(&data).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut socket) == data);
}

#[test]
fn a_reset_of_the_device_ends_all_connections_and_another_driver_starts_anew() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let data = noise(BUF_ALLOC as usize, 5);
    let mut peer = Peer::new(program.ports, GUEST_BUFFER);
    let mut rest = &data[..];
    peer.send(&mut guest, &mut rest);
    assert!(rest.is_empty());
    guest.restart_driver();
    assert!(read_all(&mut program.socket) == data);

    guest.start(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    guest.send(&header(op::RW, program.ports), b"again");
    let mut again = [0; 5];
    program.socket.read_exact(&mut again).unwrap();
    assert_eq!(&again, b"again");
}

#[test]
fn a_reset_waits_for_slow_programs_together_and_not_for_ever() {
    let mut guest = Guest::new(16, ROOM);
    let mut sent = Vec::new();
    let programs: Vec<_> = (0..3)
        .map(|port| {
            let program = guest.connect_from_host(port, GUEST_BUFFER);
            sent.push(send_until_full(&mut guest, program.ports));
            program
        })
        .collect();
    // The first never reads, the others are late.
    let mut programs = programs.into_iter();
    let stuck = programs.next().unwrap();
    let readers: Vec<_> = programs
        .map(|mut program| {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(200));
                read_all(&mut program.socket)
            })
        })
        .collect();
    let start = Instant::now();
    guest.device.reset();
    assert!(start.elapsed() < Duration::from_secs(5));
    for (reader, sent) in readers.into_iter().zip(&sent[1..]) {
        assert!(reader.join().unwrap() == *sent);
    }
    drop(stuck);
}

#[test]
fn a_reset_takes_what_was_sent_last_even_without_a_kick() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let packet = Header {
        len: 4,
        ..header(op::RW, program.ports)
    };
    let mut bytes = packet.to_bytes().to_vec();
    bytes.extend(b"last");
    guest.driver.queues[super::guest::TRANSMIT]
        .add(&[crate::virtio::testing::Buffer::Readable(&bytes)]);
    guest.device.reset();
    assert_eq!(read_all(&mut program.socket), b"last");
}

#[test]
fn the_guest_learns_its_address() {
    let guest = Guest::without_driver();
    let mut config = [0xff; 12];
    guest.device.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
