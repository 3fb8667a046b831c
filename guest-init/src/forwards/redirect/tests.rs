//! Sockets in a network of their own, and programs that the kernel runs for them.

use std::io::ErrorKind;
use std::net::{SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, setuid};
use runcvm_protocol::{Forward, ForwardAt};

use super::super::Forwards;
use super::*;
use crate::rootdir::RootDir;
use crate::test_support::{isolated, say};
use crate::{network, procfs};

/// The time in which what arrives at all has arrived.
const PATIENCE: Duration = Duration::from_secs(5);

const AT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// [`AT`] as sockets of IPv6 know it.
fn mapped() -> SocketAddr {
    SocketAddrV6::new(AT.ip().to_ipv6_mapped(), AT.port(), 0, 0).into()
}

/// Begins with a network that has a loopback interface only.
fn new_network() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    network::set_up(&[], false, &procfs::open().unwrap()).unwrap();
}

fn forward(at: SocketAddrV4) -> [Forward; 2] {
    let forward = |at| Forward { at, port: 1 };
    [
        forward(ForwardAt::Tcp(at.into())),
        forward(ForwardAt::Udp(at.into())),
    ]
}

/// Listens, after `prepare`, for what is sent to `at`.
fn listen(at: SocketAddrV4, prepare: fn(), test: impl FnOnce(Guest)) {
    isolated(CloneFlags::CLONE_NEWNS, || {
        new_network();
        prepare();
        let wanted = forward(at);
        let mut forwards = Forwards::new(&wanted, &RootDir::new(Path::new("/")).unwrap());
        forwards.listen().unwrap();
        let mut listeners = forwards
            .services
            .into_iter()
            .map(|service| service.listener);
        let (Some(Listener::Tcp(tcp)), Some(Listener::Udp(udp))) =
            (listeners.next(), listeners.next())
        else {
            panic!("listeners of other kinds");
        };
        tcp.set_nonblocking(false).unwrap();
        udp.set_nonblocking(false).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        test(Guest {
            tcp,
            udp,
            redirects: forwards.redirects,
        });
    });
}

#[derive(Debug)]
struct Guest {
    tcp: TcpListener,
    udp: UdpSocket,
    redirects: Vec<Redirect>,
}

/// Has both protocols redirected.
fn redirected(test: fn(Guest)) {
    fn check() {
        let udp = Listener::udp(SocketAddr::from((*AT.ip(), 0))).unwrap();
        if let Err(e) = Redirect::new(AT, &udp) {
            // What else the kernel says of the programs is a failure.
            let refused = e.downcast_ref::<Errno>() == Some(&Errno::EPERM)
                || e.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::PERM);
            assert!(refused, "{e:#}");
            say("skipped: needs the right to load and attach BPF programs");
            // SAFETY: ends the test's process without running anything of the harness.
            unsafe { libc::_exit(0) };
        }
    }
    listen(AT, check, |guest| {
        assert_eq!(guest.redirects.len(), 2);
        test(guest);
    });
}

fn asker(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// What `asker` sent arrives at `server`, whose answer comes from `from`.
fn assert_answered(asker: &UdpSocket, server: &UdpSocket, from: SocketAddr) {
    let mut buffer = [0; 9];
    let (len, who) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"who");
    server.send_to(b"me", who).unwrap();
    let (len, address) = asker.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], address), (&b"me"[..], from));
}

fn assert_arrives(stream: &TcpStream, listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer.port(), stream.local_addr().unwrap().port());
}

#[test]
fn datagrams_arrive_and_answers_come_from_who_was_asked() {
    redirected(|guest| {
        assert_ne!(guest.udp.local_addr().unwrap().port(), AT.port());
        for (local, at) in [("0.0.0.0:0", AT.into()), ("[::]:0", mapped())] {
            let unconnected = asker(local);
            unconnected.send_to(b"who", at).unwrap();
            assert_answered(&unconnected, &guest.udp, at);

            let connected = asker(local);
            connected.connect(at).unwrap();
            assert_eq!(connected.peer_addr().unwrap(), at);
            connected.send(b"who").unwrap();
            assert_answered(&connected, &guest.udp, at);
        }
    });
}

#[test]
fn connections_arrive() {
    redirected(|guest| {
        assert_ne!(guest.tcp.local_addr().unwrap().port(), AT.port());
        for at in [AT.into(), mapped()] {
            let stream = TcpStream::connect(at).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), at);
            assert_arrives(&stream, &guest.tcp);
        }
    });
}

#[test]
fn the_port_is_free_and_other_addresses_are_as_ever() {
    redirected(|guest| {
        let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        for at in ["127.0.0.1:53", "127.0.0.12:53"] {
            let at: SocketAddr = at.parse().unwrap();
            assert_arrives(&TcpStream::connect(at).unwrap(), &tcp);
            let asker = asker("0.0.0.0:0");
            asker.send_to(b"who", at).unwrap();
            let (len, who) = udp.recv_from(&mut [0; 9]).unwrap();
            assert_eq!((len, who.port()), (3, asker.local_addr().unwrap().port()));
        }
        let stream = TcpStream::connect("[::ffff:127.0.0.1]:53").unwrap();
        assert_arrives(&stream, &tcp);
        let other_port = TcpStream::connect((*AT.ip(), AT.port() + 1)).unwrap_err();
        assert_eq!(other_port.kind(), ErrorKind::ConnectionRefused);

        // A redirect of TCP alone, and of what it leads to nothing more.
        assert_arrives(&TcpStream::connect(AT).unwrap(), &guest.tcp);
        drop(guest.redirects);
        assert_arrives(&TcpStream::connect(AT).unwrap(), &tcp);
        let asker = asker("0.0.0.0:0");
        asker.send_to(b"who", AT).unwrap();
        udp.recv_from(&mut [0; 9]).unwrap();
    });
}

#[test]
fn protocols_go_their_own_ways() {
    redirected(|mut guest| {
        // The one of UDP goes.
        guest.redirects.pop();
        let udp = UdpSocket::bind(AT).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let asker = asker("0.0.0.0:0");
        asker.connect(AT).unwrap();
        asker.send(b"who").unwrap();
        assert_answered(&asker, &udp, AT.into());
        assert_arrives(&TcpStream::connect(AT).unwrap(), &guest.tcp);
    });
}

#[test]
fn other_networks_keep_their_own() {
    redirected(|_guest| {
        new_network();
        let tcp = TcpListener::bind(AT).unwrap();
        let udp = UdpSocket::bind(AT).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_arrives(&TcpStream::connect(AT).unwrap(), &tcp);
        let asker = asker("0.0.0.0:0");
        asker.send_to(b"who", AT).unwrap();
        assert_answered(&asker, &udp, AT.into());
    });
}

#[test]
fn a_kernel_that_takes_no_programs_has_it_listen_where_it_is_looked_for() {
    let at = SocketAddrV4::new(*AT.ip(), 5353);
    let drop_privileges = || setuid(Uid::from_raw(65534)).unwrap();
    listen(at, drop_privileges, |guest| {
        assert!(guest.redirects.is_empty());
        let at = SocketAddr::from(SocketAddrV4::new(*AT.ip(), 5353));
        assert_eq!(guest.tcp.local_addr().unwrap(), at);
        assert_eq!(guest.udp.local_addr().unwrap(), at);
    });
}

#[test]
fn only_loopback_addresses_besides_the_usual_one_are_redirected() {
    let is_free = |at: &str| free_address(at.parse().unwrap()).is_some();
    assert!(is_free("127.0.0.11:53") && is_free("127.1.0.1:80"));
    for at in ["127.0.0.1:53", "0.0.0.0:53", "10.0.0.1:53", "[::1]:53"] {
        assert!(!is_free(at), "{at}");
    }
}
