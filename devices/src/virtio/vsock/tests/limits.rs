//! What a device has too many of, and what takes too long.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use event_manager::EventSet;

use super::super::packet::{Header, Ports, op};
use super::super::table::{FIRST_ID, MAX_FROM_GUEST, Table};
use super::super::worker::Handler;
use super::super::{Vsock, VsockError, VsockSpec};
use super::guest::{CID, GUEST_BUFFER, Guest, TRANSMIT, handler, header, noise, read_all};
use crate::virtio::testing::{Buffer, Driver, wait_for};

#[test]
fn the_guest_cannot_keep_the_host_out() {
    let mut guest = Guest::new(64, 4096);
    let listener = guest.listen(9);
    thread::spawn(move || {
        for socket in listener.incoming() {
            drop(socket);
        }
    });
    let mut opened = 0;
    let mut refused = 0;
    for port in 0..u32::try_from(MAX_FROM_GUEST).unwrap() + 10 {
        let ports = Ports {
            host: 9,
            guest: port,
        };
        guest.send(&header(op::REQUEST, ports), b"");
        loop {
            match guest.receive().header.op {
                op::RESPONSE => opened += 1,
                op::RST => refused += 1,
                _ => continue,
            }
            break;
        }
    }
    assert_eq!((opened, refused), (MAX_FROM_GUEST, 10));

    let mut socket = guest.dial();
    socket.write_all(b"CONNECT 1\n").unwrap();
    let request = wait_for("a request", || {
        guest.try_receive().filter(|p| p.header.op == op::REQUEST)
    });
    guest.send(&header(op::RESPONSE, request.ports()), b"");
    let mut ok = [0; 2];
    socket.read_exact(&mut ok).unwrap();
    assert_eq!(&ok, b"OK");

    // The guest confirms an end, and may open another.
    let ports = Ports { host: 9, guest: 0 };
    guest.send(&header(op::RST, ports), b"");
    guest.send(&header(op::REQUEST, ports), b"");
    wait_for("a response", || {
        guest
            .try_receive()
            .filter(|p| p.header.op == op::RESPONSE && p.ports() == ports)
    });
}

#[test]
fn the_guest_may_use_ports_again_that_the_host_has_ended() {
    let mut guest = Guest::new(16, 4096);
    let listener = guest.listen(9);
    let ports = Ports { host: 9, guest: 5 };
    let socket = guest.connect_from_guest(&listener, ports, GUEST_BUFFER);
    drop(socket);
    guest.expect(op::SHUTDOWN, ports);
    let mut socket = guest.connect_from_guest(&listener, ports, GUEST_BUFFER);
    guest.send(&header(op::RW, ports), b"new");
    let mut data = [0; 3];
    socket.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"new");
}

#[test]
fn what_waits_to_be_written_counts_for_the_guest_that_sent_it() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("port_9")).unwrap();
    let mut driver = Driver::new(&[64, 64, 16], 0);
    let mut handler = handler(&driver, dir.path());
    let ports = Ports { host: 9, guest: 1 };
    let data = noise(65536, 7);
    let mut send = |handler: &mut Handler, op, payload: &[u8]| {
        let header = Header {
            len: u32::try_from(payload.len()).unwrap(),
            ..header(op, ports)
        };
        let header = header.to_bytes();
        driver.queues[TRANSMIT].add(&[Buffer::Readable(&header), Buffer::Readable(payload)]);
        handler.serve_transmit();
    };
    send(&mut handler, op::REQUEST, b"");
    let (mut socket, _) = listener.accept().unwrap();
    let mut sent = 0;
    while handler.table().load().unwritten == 0 {
        send(&mut handler, op::RW, &data);
        sent += data.len();
    }
    send(&mut handler, op::RST, b"");
    let load = handler.table().load();
    assert_eq!((load.streams, load.from_guest), (1, 1));

    let reader = thread::spawn(move || read_all(&mut socket).len());
    wait_for("an empty table", || {
        handler.on_event(FIRST_ID, EventSet::OUT);
        (handler.table().load().streams == 0).then_some(())
    });
    assert_eq!(handler.table().load().from_guest, 0);
    drop(handler);
    assert_eq!(reader.join().unwrap(), sent);
}

fn table(dir: &Path) -> (Table, UnixListener) {
    let listener = UnixListener::bind(dir.join("connect")).unwrap();
    listener.set_nonblocking(true).unwrap();
    (Table::new(CID, dir.join("port")), listener)
}

#[test]
fn a_program_that_does_not_say_what_it_wants_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let (mut table, listener) = table(dir.path());
    let start = Instant::now();
    let mut idle = UnixStream::connect(dir.path().join("connect")).unwrap();
    table.accept(&listener, start);
    assert!(table.timed);
    table.on_event(FIRST_ID, EventSet::OUT, start);
    table.tick(start + Duration::from_secs(9));
    assert!(table.timed);
    assert_eq!(table.load().streams, 1);
    table.tick(start + Duration::from_secs(10));
    assert_eq!(table.load().streams, 0);
    drop(table.take_watches());
    assert_eq!(read_all(&mut idle), b"");
    table.tick(start + Duration::from_secs(11));
    assert!(!table.timed);
}

#[test]
fn a_program_that_says_something_else_is_sent_away() {
    let guest = Guest::new(16, 4096);
    let mut socket = guest.dial();
    socket
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost and more\r\n")
        .unwrap();
    // The device closed it with data unread, which the program may or may not see.
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn a_program_that_leaves_takes_its_request_back() {
    let mut guest = Guest::new(16, 4096);
    let mut socket = guest.dial();
    socket.write_all(b"CONNECT 1\n").unwrap();
    let ports = guest.receive().ports();
    drop(socket);
    guest.expect(op::RST, ports);
    guest.send(&header(op::RESPONSE, ports), b"");
    guest.expect(op::RST, ports);
}

#[test]
fn bad_specs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("connect")).unwrap();
    let make = |cid, prefix: &str| {
        Vsock::new(VsockSpec {
            cid,
            listener: listener.try_clone().unwrap(),
            prefix: prefix.into(),
        })
    };
    for cid in [0, 1, 2, 0xffff_ffff, 1 << 32, u64::MAX] {
        assert!(matches!(make(cid, "p"), Err(VsockError::ReservedCid(_))));
    }
    make(0xffff_fffe, &"p".repeat(96)).unwrap();
    let error = make(3, &"p".repeat(97)).unwrap_err().to_string();
    assert!(error.ends_with("has 97 bytes, the most is 96"), "{error}");
}

#[test]
fn time_passes_for_a_program_that_waits() {
    let guest = Guest::new(16, 4096);
    let mut idle = guest.dial();
    let start = Instant::now();
    idle.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(read_all(&mut idle), b"");
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(9), "{waited:?}");
}
