//! Network interfaces on taps of the host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use runcvm_tests::{Output, Running, RunningVm, Shared, Tap, Vm, allow_files, md5, scratch};

/// Where the guest's echo listens.
const PORT: u16 = 7000;

/// How long a connection may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Links between host and guest: host, guest, MTU.
const LINKS: [(&str, &str, u32); 4] = [
    ("10.78.0.1", "10.78.0.2", 1500),
    ("fd78::1", "fd78::2", 1500),
    ("10.79.0.1", "10.79.0.2", 9000),
    ("fd79::1", "fd79::2", 9000),
];

/// A machine with two interfaces, which the tests use together.
struct Networked {
    vm: RunningVm,
    _echo: Running,
    _taps: [Tap; 2],
}

impl Networked {
    /// The machine, for one test at a time: what they measure is not how many guests an
    /// emulated processor can be.
    fn machine() -> (Arc<Self>, MutexGuard<'static, ()>) {
        static SHARED: Shared<Networked> = Shared::new();
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        (SHARED.get(Self::new), turn)
    }

    fn new() -> Self {
        allow_files(4096);
        let first = Tap::new(&["10.78.0.1/24", "fd78::1/64"], 1500);
        let second = Tap::new(&["10.79.0.1/24", "fd79::1/64"], 9000);
        let nets = [
            format!(
                "tap={},ip=10.78.0.2/24,ip=fd78::2/64,gw=10.78.0.1",
                first.name()
            ),
            format!(
                "tap={},ip=10.79.0.2/24,ip=fd79::2/64,gw=fd79::1",
                second.name()
            ),
        ];
        let vm = Vm::rootfs()
            .args(["--cpus", "2"])
            .args(["--net", &nets[0], "--net", &nets[1]])
            .timeout(Duration::from_secs(400))
            .stdin()
            .start(["sh", "-c", "echo ready; exec cat"]);
        vm.wait_for("ready\n");
        let echo = start(&vm, &["serve", &PORT.to_string()]);
        echo.wait_for("serving\n");
        Self {
            vm,
            _echo: echo,
            _taps: [first, second],
        }
    }

    #[track_caller]
    fn guest(&self, arguments: &[&str]) -> Output {
        start(&self.vm, arguments).wait().succeeded()
    }
}

/// Starts `net.py` in the guest.
fn start(vm: &RunningVm, arguments: &[&str]) -> Running {
    vm.exec().timeout(Duration::from_secs(300)).start(
        [
            ["python3", "-c", include_str!("../guest/net.py")].as_slice(),
            arguments,
        ]
        .concat(),
    )
}

/// Echoes one connection after the other has begun, each in a thread of its own.
fn echo_connections(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            thread::spawn(move || {
                let mut back = connection.try_clone()?;
                io::copy(&mut connection, &mut back)
            });
        }
    });
}

#[test]
fn a_thousand_connections_from_the_guest() {
    let (machine, _turn) = Networked::machine();
    for (host, _, _) in LINKS {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        echo_connections(listener);
        let output = machine.guest(&["connect", host, &port, "250"]);
        assert_eq!(output.out(), "connected 250\n");
    }
}

#[test]
fn a_thousand_connections_from_the_host() {
    let (_machine, _turn) = Networked::machine();
    thread::scope(|scope| {
        for (_, guest, _) in LINKS {
            for thread in 0..5 {
                scope.spawn(move || fifty_connections(guest, thread * 50));
            }
        }
    });
}

/// Opens fifty connections at once to the guest's echo, with numbers from `first`.
fn fifty_connections(guest: &str, first: usize) {
    let numbers = first..first + 50;
    let line = |number: usize| format!("connection {number}\n").into_bytes();
    let mut connections: Vec<TcpStream> = numbers.clone().map(|_| connect(guest, PORT)).collect();
    for (number, connection) in numbers.clone().zip(&mut connections) {
        connection.write_all(&line(number)).unwrap();
    }
    for (number, connection) in numbers.zip(&mut connections) {
        let mut answer = vec![0; line(number).len()];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line(number), "{guest}");
    }
}

#[track_caller]
fn connect(address: &str, port: u16) -> TcpStream {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    limit(&stream);
    stream
}

/// Waits for a connection, but not for a guest that is no more.
#[track_caller]
fn accept(listener: &TcpListener) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    listener.set_nonblocking(true).unwrap();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nobody connects");
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    };
    stream.set_nonblocking(false).unwrap();
    limit(&stream);
    stream
}

fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn datagrams_of_all_sizes_both_ways() {
    let (machine, _turn) = Networked::machine();
    for (host, guest, _) in LINKS {
        let ours = UdpSocket::bind((host, 0)).unwrap();
        let port = ours.local_addr().unwrap().port().to_string();
        let theirs = ours.try_clone().unwrap();
        theirs
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let echo = thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            for _ in 0..7 {
                let (size, peer) = theirs.recv_from(&mut buffer)?;
                theirs.send_to(&buffer[..size], peer)?;
            }
            io::Result::Ok(())
        });
        let output = machine.guest(&["datagrams", host, &port]);
        assert_eq!(output.out(), "echoed 7\n");
        echo.join().unwrap().unwrap();

        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let peer = SocketAddr::new(guest.parse().unwrap(), PORT);
        let mut buffer = vec![0; 65536];
        for size in [1, 100, 1472, 1473, 8972, 8973, 60000] {
            let datagram: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0] ^ 0x5a).collect();
            ours.send_to(&datagram, peer).unwrap();
            let (received, from) = ours.recv_from(&mut buffer).unwrap();
            assert_eq!(from, peer);
            assert!(buffer[..received] == datagram, "{guest}: {size} bytes");
        }
    }
}

#[test]
fn packets_are_as_large_as_the_mtu_and_no_larger() {
    let (machine, _turn) = Networked::machine();
    for (host, _, mtu) in LINKS {
        // Less the headers of IP and ICMP.
        let payload = mtu - if host.contains(':') { 48 } else { 28 };
        let ping = |size: u32, limit: [&str; 2]| {
            let size = size.to_string();
            let command = ["ping", "-c", "1", "-M", "do", "-s", &size];
            machine
                .vm
                .exec()
                .run([&command, &limit[..], &[host]].concat())
        };
        let output = ping(payload, ["-w", "10"]).succeeded();
        assert!(output.out().contains("1 received"), "{}", output.out());
        let output = ping(payload + 1, ["-W", "1"]);
        let complaint = output.err().to_lowercase();
        assert!(
            output.status != 0 && complaint.contains("message too long"),
            "{host}: {output:?}"
        );
    }
}

#[test]
fn a_quarter_of_a_gibibyte_arrives_whole_both_ways() {
    let (machine, _turn) = Networked::machine();
    let directory = scratch();
    let path = directory.path().join("file");
    let listen = |host| {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        (listener, port)
    };

    let (host, ..) = LINKS[0];
    let (listener, port) = listen(host);
    let sender = start(&machine.vm, &["send", host, &port, "256"]);
    let mut connection = accept(&listener);
    let received = io::copy(&mut connection, &mut File::create(&path).unwrap()).unwrap();
    assert_eq!(received, 256 << 20);
    assert_eq!(sender.wait().succeeded().out().trim(), md5(&path));

    // Back again, over the other interface: it is as good as any other.
    let (host, ..) = LINKS[3];
    let (listener, port) = listen(host);
    let receiver = start(&machine.vm, &["receive", host, &port]);
    let mut connection = accept(&listener);
    io::copy(&mut File::open(&path).unwrap(), &mut connection).unwrap();
    drop(connection);
    assert_eq!(receiver.wait().succeeded().out().trim(), md5(&path));
}

#[test]
fn interfaces_and_routes_are_as_asked_for() {
    let (machine, _turn) = Networked::machine();
    let output = machine.vm.sh(
        "cd /sys/class/net; ls; cat eth0/mtu eth1/mtu lo/operstate; cat eth?/address
        ping -q -c 1 127.0.0.1 >/dev/null
        ip -o address show scope global | awk '{ print $2, $4 }'
        ip -4 route show default; ip -6 route show default",
    );
    let lines: Vec<_> = output.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..6],
        ["eth0", "eth1", "lo", "1500", "9000", "unknown"]
    );
    // Local administration, and one each.
    let addresses = &lines[6..8];
    assert_ne!(addresses[0], addresses[1]);
    for address in addresses {
        let first = u8::from_str_radix(&address[..2], 16).unwrap();
        assert_eq!(first & 0b11, 0b10, "{address}");
    }
    let addresses = [
        "eth0 10.78.0.2/24",
        "eth0 fd78::2/64",
        "eth1 10.79.0.2/24",
        "eth1 fd79::2/64",
    ];
    assert_eq!(lines[8..12], addresses);
    assert_eq!(lines[12], "default via 10.78.0.1 dev eth0");
    assert!(
        lines[13].starts_with("default via fd79::1 dev eth1"),
        "{output}"
    );
    assert_eq!(lines.len(), 14, "{output}");
}

fn is_there(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

#[test]
fn a_tap_is_made_if_it_is_not_there_and_goes_with_the_machine() {
    let ours = Tap::new(&["10.81.0.1/24"], 1500);
    let made = format!("made{}", std::process::id());
    assert!(!is_there(&made));
    let net = format!(
        "tap={made},mac=52:54:00:12:34:56,ip=10.80.0.2/24,ip=fd80::2/64,gw=10.80.0.1,gw=fd80::1,mtu=4000"
    );
    let vm = Vm::rootfs()
        .args(["--net", &net])
        .args(["--net", &format!("tap={},ip=10.81.0.2/24", ours.name())])
        .stdin()
        .start(["sh", "-c", "echo ready; exec cat"]);
    vm.wait_for("ready\n");
    let mtu = fs::read_to_string(format!("/sys/class/net/{made}/mtu")).unwrap();
    assert_eq!(mtu, "4000\n");
    assert_eq!(
        vm.sh("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu"),
        "52:54:00:12:34:56\n4000\n"
    );
    assert_eq!(
        vm.sh("ip -4 route show default; ip -6 route show default | cut -d' ' -f1-5"),
        "default via 10.80.0.1 dev eth0 \ndefault via fd80::1 dev eth0\n"
    );
    let status = Command::new("ip")
        .args(["address", "add", "10.80.0.1/24", "dev", &made])
        .status()
        .unwrap();
    assert!(status.success());
    let listener = TcpListener::bind(("10.80.0.1".parse::<IpAddr>().unwrap(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    echo_connections(listener);
    let output = start(&vm, &["connect", "10.80.0.1", &port, "3"]).wait();
    assert_eq!(output.succeeded().out(), "connected 3\n");

    vm.close_stdin();
    vm.wait().succeeded();
    assert!(!is_there(&made), "{made} was left");
    assert!(is_there(ours.name()), "{} was taken away", ours.name());
}
