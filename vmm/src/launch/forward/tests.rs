use std::net::TcpListener;

use runcvm_protocol::{ByteBuf, ForwardAt};

use super::*;

/// The guest's end of a connection to `to`.
fn connected(to: ForwardTo) -> UnixStream {
    let (guest, ours) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let _ = carry(&ours, &to);
    });
    guest
}

/// Answers one connection: what it read, doubled, after its end.
fn double(mut stream: impl Read + Write) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes.extend_from_within(..);
    stream.write_all(&bytes).unwrap();
}

fn exchange(mut guest: UnixStream, bytes: &[u8]) -> Vec<u8> {
    guest.write_all(bytes).unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    guest.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn each_direction_ends_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let service = thread::spawn(move || double(listener.accept().unwrap().0));
    let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let answer = exchange(connected(ForwardTo::Unix(path)), &sent);
    assert_eq!(answer.len(), 2 * sent.len());
    assert!(answer.starts_with(&sent) && answer.ends_with(&sent));
    service.join().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = thread::spawn(move || double(listener.accept().unwrap().0));
    let answer = exchange(connected(ForwardTo::Tcp(address)), b"ab");
    assert_eq!(answer, b"abab");
    service.join().unwrap();
}

#[test]
fn a_service_that_is_not_there_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = connected(ForwardTo::Unix(dir.path().join("none")));
    assert_eq!(guest.read(&mut [0]).unwrap(), 0);
}

#[test]
fn datagrams_keep_their_bounds() {
    let service = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = service.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut buffer = [0; 100];
        for _ in 0..2 {
            let (length, from) = service.recv_from(&mut buffer).unwrap();
            buffer[..length].reverse();
            service.send_to(&buffer[..length], from).unwrap();
        }
    });
    let mut guest = connected(ForwardTo::Udp(address));
    for (question, answer) in [
        (b"\x00\x03abc", b"\x00\x03cba"),
        (b"\x00\x03123", b"\x00\x03321"),
    ] {
        guest.write_all(question).unwrap();
        let mut read = [0; 5];
        guest.read_exact(&mut read).unwrap();
        assert_eq!(&read, answer);
    }
    // Half a datagram is none.
    guest.write_all(b"\x00\x09x").unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    server.join().unwrap();
}

#[test]
fn connections_have_a_bounded_number_of_places() {
    let connections = Arc::new(AtomicUsize::new(0));
    let places: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| Place::take(&connections).unwrap())
        .collect();
    assert!(Place::take(&connections).is_none());
    drop(places);
    assert!(Place::take(&connections).is_some());
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

#[test]
fn a_process_serves_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let service = thread::spawn(move || double(listener.accept().unwrap().0));
    let specs = [ForwardSpec {
        at: ForwardAt::Unix(ByteBuf::from("/service")),
        to: ForwardTo::Unix(path),
    }];
    let guest = for_guest(&specs);
    assert_eq!((guest.len(), &guest[0].at), (1, &specs[0].at));

    let sockets = dir.path().join("vsock.sock");
    let mut forwarder = Forwarder::start(&sockets, &specs).unwrap().unwrap();
    assert!(!forwarder.has_ended());
    let socket = dir.path().join(format!("vsock.sock_{}", guest[0].port));
    let answer = exchange(UnixStream::connect(&socket).unwrap(), b"12");
    assert_eq!(answer, b"1212");
    service.join().unwrap();
    drop(forwarder);
    UnixStream::connect(&socket).unwrap_err();
    assert!(Forwarder::start(&sockets, &[]).unwrap().is_none());
}
