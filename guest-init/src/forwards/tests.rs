//! The server with Unix sockets in place of vsock.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn address(port: u32) -> std::os::unix::net::SocketAddr {
    let name = format!("runcvm-forwards-{}-{port}", std::process::id());
    std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
}

fn connect(port: u32) -> Result<OwnedFd> {
    let stream = UnixStream::connect_addr(&address(port))?;
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

/// A server of one listener, and the host that its connections arrive at.
fn start(listener: impl Into<Listener>) -> UnixListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let host = UnixListener::bind_addr(&address(port)).unwrap();
    let listener = listener.into();
    thread::spawn(move || {
        let server = Server::new(vec![Service { listener, port }], connect).unwrap();
        server.run().unwrap();
    });
    host
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self::Unix(listener)
    }
}

/// A server of a Unix socket; what to connect to it with, and the host.
fn start_unix() -> (impl Fn() -> UnixStream, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let host = start(UnixListener::bind(&path).unwrap());
    let connect = move || {
        let _ = &dir;
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    (connect, host)
}

fn accept(host: &UnixListener) -> UnixStream {
    let (stream, _) = host.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let (connect, host) = start_unix();
    for first_is_guest in [true, false] {
        let (guest, host) = (connect(), accept(&host));
        let (mut one, mut other) = match first_is_guest {
            true => (guest, host),
            false => (host, guest),
        };
        one.write_all(b"question").unwrap();
        one.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        thread::sleep(Duration::from_millis(50));
        other.write_all(b"answer").unwrap();
        drop(other);
        text.clear();
        one.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}

#[test]
fn much_arrives_unchanged_though_the_reader_is_slow() {
    let (connect, host) = start_unix();
    let (mut guest, mut host) = (connect(), accept(&host));
    let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let expected = data.clone();
    let writer = thread::spawn(move || {
        guest.write_all(&data).unwrap();
        guest.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        guest.read_to_end(&mut back).unwrap();
        back
    });
    thread::sleep(Duration::from_millis(100));
    let mut found = Vec::new();
    host.read_to_end(&mut found).unwrap();
    assert!(found == expected, "{} bytes", found.len());
    host.write_all(&found).unwrap();
    drop(host);
    assert!(writer.join().unwrap() == expected);
}

#[test]
fn who_goes_is_gone_for_the_other_too() {
    let (connect, host) = start_unix();
    let (guest, mut other) = (connect(), accept(&host));
    guest.shutdown(Shutdown::Write).unwrap();
    assert_eq!(other.read(&mut [0; 9]).unwrap(), 0);
    drop(guest);
    // Not at once, as it must go through the server.
    let gone = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(20));
        other.write_all(b"x").is_err()
    });
    assert!(gone, "the host can still write");

    // A host that takes no connections is the end of the guest's, and of nothing else.
    drop(host);
    assert_eq!(connect().read(&mut [0; 9]).unwrap_or(0), 0);
    assert_eq!(connect().read(&mut [0; 9]).unwrap_or(0), 0);
}

#[test]
fn many_at_once_wait_for_their_turn() {
    let (connect, host) = start_unix();
    let echo = thread::spawn(move || {
        for _ in 0..500 {
            let mut stream = accept(&host);
            thread::spawn(move || {
                let mut text = Vec::new();
                stream.read_to_end(&mut text).unwrap();
                stream.write_all(&text).unwrap();
            });
        }
    });
    let streams: Vec<_> = (0..500).map(|n: u32| (n, connect())).collect();
    for (n, mut stream) in streams {
        stream.write_all(&n.to_le_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        assert_eq!(text, n.to_le_bytes());
    }
    echo.join().unwrap();
}

#[test]
fn tcp_is_carried() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let host = start(Listener::Tcp(listener));
    let mut guest = TcpStream::connect(at).unwrap();
    guest.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut host = accept(&host);
    host.write_all(b"hello").unwrap();
    drop(host);
    let mut text = String::new();
    guest.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

fn start_udp() -> (SocketAddr, UnixListener) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let at = socket.local_addr().unwrap();
    (at, start(Listener::Udp(socket)))
}

fn asker(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(at).unwrap();
    socket
}

#[test]
fn a_datagram_is_answered_to_who_sent_it() {
    let (at, host) = start_udp();
    let askers = [asker(at), asker(at)];
    askers[0].send(b"one").unwrap();
    let mut first = accept(&host);
    askers[1].send(&[7; 1000]).unwrap();
    let mut second = accept(&host);
    let mut text = [0; 5];
    first.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"\0\x03one");
    let mut text = [0; 1002];
    second.read_exact(&mut text).unwrap();
    assert_eq!(text[..3], [3, 0xe8, 7]);
    // In pieces, and the later question first.
    for piece in [&b"\0"[..], b"\x04", b"tw", b"o!"] {
        second.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    let mut answer = [0; 99];
    let len = askers[1].recv(&mut answer).unwrap();
    assert_eq!(&answer[..len], b"two!");
    first.write_all(b"\0\0").unwrap();
    assert_eq!(askers[0].recv(&mut answer).unwrap(), 0);
}

#[test]
fn questions_without_an_answer_are_given_up() {
    let (at, host) = start_udp();
    let asker = asker(at);
    let waiting: Vec<_> = (0..200u8)
        .map(|n| {
            asker.send(&[n]).unwrap();
            // More than so many are not asked at a time.
            (n < 128).then(|| accept(&host))
        })
        .collect();
    drop(waiting);
    // Those go when the host hangs up, and the next are asked.
    let mut next = accept(&host);
    let mut text = [0; 3];
    next.read_exact(&mut text).unwrap();
    assert_eq!(text, [0, 1, 128]);
}

#[test]
fn other_descriptors_are_closed() {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sched::CloneFlags;

    crate::test_support::isolated(CloneFlags::empty(), || {
        let open = || std::fs::File::open("/dev/null").unwrap();
        let before = open();
        let own = Service {
            listener: Listener::Udp(UdpSocket::bind("127.0.0.1:0").unwrap()),
            port: 1,
        };
        let after = [open(), open()];
        let others = [&before, &after[0], &after[1]].map(AsRawFd::as_raw_fd);
        std::mem::forget((before, after));
        close_others(std::slice::from_ref(&own), &[]);
        fcntl(&own.listener, FcntlArg::F_GETFD).unwrap();
        for fd in others {
            // SAFETY: takes a number only.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, -1, "{fd}");
        }
    });
}

#[test]
fn a_socket_takes_the_place_and_the_owner_of_the_original() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::CloneFlags;

    crate::test_support::isolated(CloneFlags::CLONE_NEWNS, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let none: Option<&str> = None;
        mount(Some("root"), path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let root = RootDir::new(path).unwrap();
        std::fs::create_dir(path.join("run")).unwrap();
        drop(UnixListener::bind(path.join("run/old")).unwrap());
        chown(path.join("run/old"), Some(12), Some(34)).unwrap();
        let mode = PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(path.join("run/old"), mode).unwrap();
        std::os::unix::fs::symlink("/run", path.join("var")).unwrap();
        let forward = |path: &str| Forward {
            at: ForwardAt::Unix(runcvm_protocol::ByteBuf::from(path)),
            port: 1,
        };
        let wanted = [forward("/var/old"), forward("/new/socket")];
        let mut forwards = Forwards::new(&wanted, &root);
        forwards.mount_sockets(&root).unwrap();
        let found = |name: &str| {
            let found = std::fs::metadata(path.join(name)).unwrap();
            (found.uid(), found.gid(), found.mode())
        };
        assert_eq!(found("run/old"), (12, 34, libc::S_IFSOCK | 0o640));
        assert_eq!(found("new/socket"), (0, 0, libc::S_IFSOCK | 0o660));
        for (name, service) in ["run/old", "new/socket"].iter().zip(&forwards.services) {
            let Listener::Unix(listener) = &service.listener else {
                panic!("{:?}", service.listener);
            };
            UnixStream::connect(path.join(name)).unwrap();
            listener.accept().unwrap();
        }
        for name in ["run/old", "new/socket"] {
            umount2(&path.join(name), MntFlags::MNT_DETACH).unwrap();
        }
        // What was there is untouched below it.
        assert_eq!(found("run/old"), (12, 34, libc::S_IFSOCK | 0o640));
        umount2(path, MntFlags::MNT_DETACH).unwrap();
        let _ = std::fs::remove_dir("/scratch");
    });
}
