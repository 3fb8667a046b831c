//! Guests that break the rules.

use std::io::{Read, Write};
use std::time::Instant;

use proptest::prelude::*;

use super::super::connection::BUF_ALLOC;
use super::super::packet::{HOST_CID, Header, Ports, TYPE_STREAM, op, shutdown};
use super::super::table::MAX_STREAMS;
use super::guest::{CID, GUEST_BUFFER, Guest, RECEIVE, TRANSMIT, handler, header, noise, read_all};
use crate::virtio::testing::{Buffer, Descriptor, Driver, NEXT, OUTSIDE, WRITE, wait_for};

const ROOM: u32 = 4096;

/// Checks that the device still serves a connection.
fn check_alive(guest: &mut Guest) {
    let mut program = guest.connect_from_host(7, GUEST_BUFFER);
    program.socket.write_all(b"alive?").unwrap();
    assert_eq!(guest.expect(op::RW, program.ports).payload, b"alive?");
    guest.send(&header(op::RST, program.ports), b"");
    assert_eq!(read_all(&mut program.socket), b"");
}

#[test]
fn packets_of_no_connection_are_reset_and_resets_are_not() {
    let mut guest = Guest::new(16, ROOM);
    let ports = Ports { host: 1, guest: 2 };
    for op in [
        0,
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        8,
        u16::MAX,
    ] {
        guest.send(&header(op, ports), b"");
        guest.expect(op::RST, ports);
    }
    guest.send(&header(op::RST, ports), b"");
    guest.expect_silence();
    check_alive(&mut guest);
}

#[test]
fn packets_that_break_the_order_end_their_connection() {
    for op in [0, op::REQUEST, op::RESPONSE, 8, u16::MAX] {
        let mut guest = Guest::new(16, ROOM);
        let mut program = guest.connect_from_host(1, GUEST_BUFFER);
        guest.send(&header(op, program.ports), b"");
        guest.expect(op::RST, program.ports);
        assert_eq!(read_all(&mut program.socket), b"");
        check_alive(&mut guest);
    }
    // Before the guest accepted.
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::REQUEST] {
        let mut guest = Guest::new(16, ROOM);
        let mut socket = guest.dial();
        socket.write_all(b"CONNECT 1\n").unwrap();
        let ports = guest.receive().ports();
        guest.send(&header(op, ports), b"");
        guest.expect(op::RST, ports);
        assert_eq!(read_all(&mut socket), b"");
    }
}

#[test]
fn packets_of_others_are_dropped_and_those_to_others_reset() {
    let mut guest = Guest::new(16, ROOM);
    let listener = guest.listen(5);
    let ports = Ports { host: 5, guest: 2 };
    for src_cid in [0, 1, HOST_CID, CID + 1, u64::MAX] {
        let forged = Header {
            src_cid,
            ..header(op::REQUEST, ports)
        };
        guest.send(&forged, b"");
    }
    guest.expect_silence();
    for (dst_cid, kind) in [
        (HOST_CID, 0),
        (HOST_CID, 2),
        (HOST_CID, u16::MAX),
        (0, TYPE_STREAM),
        (1, TYPE_STREAM),
        (CID, TYPE_STREAM),
        (u64::MAX, TYPE_STREAM),
    ] {
        let strange = Header {
            dst_cid,
            kind,
            ..header(op::REQUEST, ports)
        };
        guest.send(&strange, b"");
        let reset = guest.expect(op::RST, ports);
        assert_eq!((reset.header.src_cid, reset.header.kind), (dst_cid, kind));
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    check_alive(&mut guest);
}

#[test]
fn a_guest_that_ignores_its_credit_is_reset() {
    let mut guest = Guest::new(16, ROOM);
    let program = guest.connect_from_host(1, GUEST_BUFFER);
    let data = noise(65536, 6);
    // The program reads nothing, so only what the socket holds is ever credited.
    for _ in 0..64 {
        guest.send(&header(op::RW, program.ports), &data);
    }
    let reset = wait_for("a reset", || {
        guest.try_receive().filter(|p| p.header.op == op::RST)
    });
    assert_eq!(reset.ports(), program.ports);
    drop(program);
}

#[test]
fn data_after_the_end_of_sending_is_reset() {
    let mut guest = Guest::new(16, ROOM);
    let program = guest.connect_from_host(1, GUEST_BUFFER);
    let end = Header {
        flags: shutdown::SEND,
        ..header(op::SHUTDOWN, program.ports)
    };
    guest.send(&end, b"");
    guest.send(&header(op::RW, program.ports), b"more");
    guest.expect(op::RST, program.ports);
}

#[test]
fn packets_may_lie_in_any_buffers() {
    let mut guest = Guest::new(0, ROOM);
    // Room of 44 + 8 bytes in three pieces, the header split over two.
    for _ in 0..8 {
        guest.add_room(&[
            Buffer::Writable(20),
            Buffer::Writable(27),
            Buffer::Writable(5),
        ]);
    }
    guest.driver.queues[RECEIVE].kick();
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    program.socket.write_all(b"0123456789").unwrap();
    assert_eq!(guest.expect(op::RW, program.ports).payload, b"01234567");
    assert_eq!(guest.expect(op::RW, program.ports).payload, b"89");

    let packet = Header {
        len: 6,
        ..header(op::RW, program.ports)
    };
    let mut bytes = packet.to_bytes().to_vec();
    bytes.extend(b"abcdef, and what the length leaves out");
    let parts: Vec<_> = bytes.chunks(11).map(Buffer::Readable).collect();
    guest.driver.queues[TRANSMIT].request(&parts);
    guest.driver.queues[TRANSMIT].add_indirect(&parts);
    guest.driver.queues[TRANSMIT].kick();
    guest.driver.queues[TRANSMIT].wait_used();
    let mut data = [0; 12];
    program.socket.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"abcdefabcdef");
}

#[test]
fn a_packet_shorter_than_it_says_ends_its_connection() {
    let mut guest = Guest::new(16, ROOM);
    let mut program = guest.connect_from_host(1, GUEST_BUFFER);
    let packet = Header {
        len: 100,
        ..header(op::RW, program.ports)
    };
    let mut bytes = packet.to_bytes().to_vec();
    bytes.extend([0; 99]);
    guest.driver.queues[TRANSMIT].request(&[Buffer::Readable(&bytes)]);
    guest.expect(op::RST, program.ports);
    assert_eq!(read_all(&mut program.socket), b"");
    check_alive(&mut guest);
}

#[test]
fn useless_transmit_buffers_are_returned() {
    let mut guest = Guest::new(16, ROOM);
    let bytes = header(op::RW, Ports { host: 1, guest: 2 }).to_bytes();
    let queue = &mut guest.driver.queues[TRANSMIT];
    queue.request(&[Buffer::Readable(&bytes[..43])]);
    queue.request(&[Buffer::Writable(100)]);
    queue.request(&[Buffer::ReadableAt(OUTSIDE, 44)]);
    queue.request(&[Buffer::Readable(&bytes), Buffer::ReadableAt(OUTSIDE, 1)]);
    // A loop, and a chain that leaves the table.
    for next in [queue.next_descriptor(), 5000] {
        let addr = queue.alloc(44);
        queue.add_raw(&[Descriptor {
            addr,
            len: 44,
            flags: NEXT,
            next,
        }]);
        queue.kick();
        queue.wait_used();
    }
    guest.expect_silence();
    check_alive(&mut guest);
}

#[test]
fn useless_receive_buffers_are_returned() {
    let mut guest = Guest::new(0, ROOM);
    let queue = &mut guest.driver.queues[RECEIVE];
    let bad = [
        queue.add(&[Buffer::Writable(43)]).head,
        queue.add(&[Buffer::Readable(&[0; 100])]).head,
        queue.add(&[Buffer::WritableAt(OUTSIDE, 4096)]).head,
    ];
    queue.kick();
    let mut socket = guest.dial();
    socket.write_all(b"CONNECT 1\n").unwrap();
    for head in bad {
        assert_eq!(guest.driver.queues[RECEIVE].wait_used(), (head, 0));
    }
    guest.add_room(&[Buffer::Writable(44)]);
    guest.driver.queues[RECEIVE].kick();
    let request = guest.receive();
    assert_eq!(request.header.op, op::REQUEST);

    // Data has no place in a buffer for a header alone, which was made available again.
    guest.send(&header(op::RESPONSE, request.ports()), b"");
    socket.write_all(b"data").unwrap();
    let (_, len) = guest.driver.queues[RECEIVE].wait_used();
    assert_eq!(len, 0);
    guest.add_room(&[Buffer::Writable(ROOM)]);
    guest.driver.queues[RECEIVE].kick();
    assert_eq!(guest.expect(op::RW, request.ports()).payload, b"data");
}

#[test]
fn a_broken_ring_asks_for_a_reset() {
    let mut guest = Guest::new(16, ROOM);
    guest.driver.queues[TRANSMIT].set_avail_idx(5000);
    guest.driver.queues[TRANSMIT].kick();
    let interrupt = guest.driver.interrupt.clone();
    interrupt.wait("a call for a reset", |raised| raised.needs_reset);
    guest.restart_driver();
    guest.start(16, ROOM);
    check_alive(&mut guest);
}

fn any_header() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![8 => Just(CID), 1 => any::<u64>()];
    let dst = prop_oneof![8 => Just(HOST_CID), 1 => any::<u64>()];
    let kind = prop_oneof![8 => Just(TYPE_STREAM), 1 => any::<u16>()];
    let op = prop_oneof![8 => 1..8_u16, 1 => any::<u16>()];
    let len = prop_oneof![4 => 0..5000_u32, 1 => any::<u32>()];
    let credit = (any::<u32>(), any::<u32>(), any::<u32>());
    (cid, dst, kind, op, 1..4_u32, len, credit).prop_map(
        |(src_cid, dst_cid, kind, op, port, len, (flags, buf_alloc, fwd_cnt))| Header {
            src_cid,
            dst_cid,
            src_port: port,
            // One port that somebody listens at, and others.
            dst_port: 1 + port / 3,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_packets_leave_the_device_within_its_bounds(
        packets in proptest::collection::vec((any_header(), 0..3_u8), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("port_1")).unwrap();
        let mut driver = Driver::new(&[64, 64, 16], 0);
        let mut handler = handler(&driver, dir.path());
        for (header, slack) in packets {
            let mut bytes = header.to_bytes().to_vec();
            // As long as it says, or not.
            let len = header.len.min(70_000) / (1 + u32::from(slack));
            bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 7);
            driver.queues[TRANSMIT].add(&[Buffer::Readable(&bytes)]);
            driver.queues[RECEIVE].add(&[Buffer::Writable(64)]);
            handler.serve_transmit();
            handler.serve_receive(Instant::now());
            prop_assert!(driver.queues[TRANSMIT].try_used().is_some());
            while driver.queues[RECEIVE].try_used().is_some() {}
            let load = handler.table().load();
            prop_assert!(load.streams <= MAX_STREAMS);
            prop_assert!(load.unwritten <= usize::try_from(BUF_ALLOC).unwrap());
        }
        prop_assert!(!driver.interrupt.raised().needs_reset);
    }

    #[test]
    fn any_descriptors_leave_the_device_alive(
        descriptors in proptest::collection::vec(
            (prop_oneof![0..0x100_0000_u64, any::<u64>()], prop_oneof![0..200_u32, any::<u32>()], 0..8_u16, 0..80_u16),
            1..30,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut driver = Driver::new(&[64, 64, 16], 0);
        let mut handler = handler(&driver, dir.path());
        for (addr, len, flags, next) in descriptors {
            for queue in [RECEIVE, TRANSMIT] {
                // Rings stay whole: they are at the start of each queue's share of memory.
                let flags = if queue == RECEIVE { flags & !WRITE } else { flags };
                driver.queues[queue].add_raw(&[Descriptor { addr, len, flags, next }]);
            }
            handler.serve_transmit();
            handler.serve_receive(Instant::now());
            prop_assert!(driver.queues[TRANSMIT].try_used().is_some());
            while driver.queues[RECEIVE].try_used().is_some() {}
        }
    }
}
