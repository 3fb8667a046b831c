//! Three network namespaces: a world, a container that a veth connects with it, and a third
//! that stands for the machine. Its kernel is at the other end of the container's tap.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

use super::*;

const MAC: [u8; 6] = [2, 0x42, 10, 9, 0, 2];

const PATIENCE: Duration = Duration::from_secs(10);

struct Namespace(File);

impl Namespace {
    /// A new one, if this user may have it.
    fn new() -> Option<Self> {
        let made = thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => Some(Self(File::open("/proc/thread-self/ns/net").unwrap())),
            Err(Errno::EPERM) => None,
            Err(error) => panic!("{error}"),
        });
        made.join().unwrap()
    }

    /// Runs `task` in it. Sockets that it makes stay there.
    fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                task()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// `ip` with each line of `commands`.
    fn ip(&self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|c| !c.is_empty()) {
            let output = self.run(|| Command::new("ip").args(command.split(' ')).output());
            let output = output.expect("iproute2 is installed");
            assert!(output.status.success(), "ip {command}: {output:?}");
        }
    }

    fn set(&self, sysctl: &str, value: &str) {
        let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
        self.run(|| fs::write(path, value)).unwrap();
    }

    fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let stream = self.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn socket(&self, at: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(at)).unwrap();
        let moment = Duration::from_millis(500);
        socket.set_read_timeout(Some(moment)).unwrap();
        socket
    }

    /// Has TCP and UDP echoed at `at`, with `name` before it.
    fn echo(&self, at: &str, name: &'static str) {
        let listener = self.run(|| TcpListener::bind(at)).unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let mut back = stream.try_clone()?;
                    back.write_all(name.as_bytes())?;
                    io::copy(&mut stream, &mut back)?;
                    back.shutdown(Shutdown::Write)
                });
            }
        });
        let socket = self.run(|| UdpSocket::bind(at)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok((size, peer)) = socket.recv_from(&mut buffer) {
                let answer = [name.as_bytes(), &buffer[..size]].concat();
                let _ = socket.send_to(&answer, peer);
            }
        });
    }
}

struct Networks {
    world: Namespace,
    container: Namespace,
    guest: Namespace,
}

impl Networks {
    /// The container's `eth0` has 10.9.0.2 and fd09::2, the world 10.9.0.1 and fd09::1.
    fn new(mtu: u16) -> Option<Self> {
        let Some(world) = Namespace::new() else {
            eprintln!("skipped: needs root");
            return None;
        };
        let networks = Self {
            world,
            container: Namespace::new().unwrap(),
            guest: Namespace::new().unwrap(),
        };
        for namespace in [&networks.world, &networks.container, &networks.guest] {
            namespace.set("net.ipv6.conf.default.accept_dad", "0");
            namespace.ip("link set lo up");
        }
        let container = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            networks.container.0.as_raw_fd()
        );
        networks.world.ip(&format!(
            "link add name world mtu {mtu} type veth peer name eth0 address 02:42:0a:09:00:02 mtu {mtu}
            link set eth0 netns {container}
            address add 10.9.0.1/24 dev world
            address add fd09::1/64 dev world nodad
            address add 192.0.2.1/32 dev world
            address add 2001:db8::1/128 dev world nodad
            link set world up"
        ));
        networks.container.ip("link set eth0 up
            address add 10.9.0.2/24 dev eth0
            address add fd09::2/64 dev eth0 nodad
            route add default via 10.9.0.1
            -6 route add default via fd09::1");
        Some(networks)
    }

    /// Prepares the container's network and starts the machine.
    fn start(&self, local: &[Local]) {
        let net = self.container.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let interfaces = interfaces::list(&mut netlink).unwrap();
            let [interface] = &interfaces[..] else {
                panic!("{interfaces:?}");
            };
            connect(&mut netlink, interface, local).unwrap()
        });
        let tap = self.container.run(|| attach(&net.tap));
        let mtu = net.mtu.unwrap();
        self.container
            .ip(&format!("link set {} mtu {mtu} up", net.tap));
        let nic = self.guest.run(|| attach("eth0"));
        self.guest.ip(&format!(
            "link set eth0 address 02:42:0a:09:00:02 mtu {mtu} up"
        ));
        for (address, prefix) in &net.addresses {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            self.guest
                .ip(&format!("address add {address}/{prefix} dev eth0{nodad}"));
        }
        for route in &net.routes {
            let (to, prefix) = route.destination;
            let via = route.gateway.map(|by| format!(" via {by}"));
            let via = via.unwrap_or_default();
            self.guest
                .ip(&format!("route add {to}/{prefix}{via} dev eth0"));
        }
        carry(tap.try_clone().unwrap(), nic.try_clone().unwrap());
        carry(nic, tap);
    }
}

/// The tap `name` as a machine's device has it, with everything left to the other side.
fn attach(name: &str) -> File {
    let tap = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: an `ifreq` is plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: TUNSETIFF reads and writes an `ifreq`.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).unwrap();
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: TUNSETOFFLOAD takes a number.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    Errno::result(result).unwrap();
    tap
}

/// Hands frames on for as long as the process lives.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        while let Ok(size) = from.read(&mut frame) {
            // A tap that is down loses them.
            let _ = to.write(&frame[..size]);
        }
    });
}

/// What an echo says to `stream`, which sends `bytes`.
fn talk(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    thread::scope(|scope| {
        let mut sender = stream.try_clone().unwrap();
        scope.spawn(move || {
            sender.write_all(bytes).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut answer).unwrap();
    });
    answer
}

/// What the echo at `server` says, asked more than once: a kernel may lose what arrives in
/// the moment after it got an address.
fn ask(socket: &UdpSocket, server: &str) -> String {
    let mut buffer = [0; 100];
    for _ in 0..10 {
        socket.send_to(b"?", server).unwrap();
        if let Ok((size, _)) = socket.recv_from(&mut buffer) {
            return String::from_utf8_lossy(&buffer[..size]).into_owned();
        }
    }
    panic!("{server} does not answer");
}

/// What the container's kernel received by TCP and UDP, and how often it complained.
fn heard(container: &Namespace) -> [u64; 4] {
    let text = container.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let value = |protocol: &str, name: &str| -> u64 {
        let mut lines = text.lines().filter(|line| line.starts_with(protocol));
        let names = lines.next().unwrap().split(' ');
        let values = lines.next().unwrap().split(' ');
        let (_, value) = names.zip(values).find(|(n, _)| *n == name).unwrap();
        value.parse().unwrap()
    };
    [
        value("Tcp: ", "InSegs"),
        value("Udp: ", "InDatagrams"),
        value("Tcp: ", "OutRsts"),
        value("Icmp: ", "OutDestUnreachs"),
    ]
}

#[test]
fn the_world_and_the_guest_reach_each_other() {
    for mtu in [1500, 9000] {
        let Some(networks) = Networks::new(mtu) else {
            return;
        };
        networks.start(&[]);
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        for (world, guest) in [("10.9.0.1", "10.9.0.2"), ("[fd09::1]", "[fd09::2]")] {
            networks.world.echo(&format!("{world}:7"), "world");
            networks.guest.echo(&format!("{guest}:7"), "guest");
            for (from, to, name) in [
                (&networks.world, guest, "guest"),
                (&networks.guest, world, "world"),
            ] {
                let to = format!("{to}:7");
                let answer = talk(from.connect(&to).unwrap(), &bytes);
                assert!(
                    answer == [name.as_bytes(), &bytes].concat(),
                    "{to} at {mtu}"
                );
                let any = if to.contains('[') {
                    "[::]:0"
                } else {
                    "0.0.0.0:0"
                };
                assert_eq!(ask(&from.socket(any), &to), format!("{name}?"));
            }
            let closed = networks.world.connect(&format!("{guest}:8")).unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::ConnectionRefused);
        }
        let heard = heard(&networks.container);
        assert_eq!(heard, [0; 4], "the container's kernel heard of it");
    }
}

#[test]
fn the_default_route_leads_out_of_the_guest() {
    let Some(networks) = Networks::new(1500) else {
        return;
    };
    networks.start(&[]);
    for far in ["192.0.2.1:7", "[2001:db8::1]:7"] {
        networks.world.echo(far, "far");
        assert_eq!(talk(networks.guest.connect(far).unwrap(), b"!"), b"far!");
    }
}

#[test]
fn the_containers_port_is_at_the_guests_address() {
    let Some(networks) = Networks::new(1500) else {
        return;
    };
    networks.start(&[Local::Port(5900)]);
    for address in ["10.9.0.2", "[fd09::2]"] {
        for (port, name) in [(5900, "container"), (5901, "guest")] {
            let at = format!("{address}:{port}");
            networks.container.echo(&at, "container");
            networks.guest.echo(&at, "guest");
            let answer = talk(networks.world.connect(&at).unwrap(), b"!");
            assert_eq!(String::from_utf8_lossy(&answer), format!("{name}!"));
            // It is for TCP alone.
            let socket = networks.world.socket("[::]:0");
            let mapped = at.replace("10.9.0.2", "[::ffff:10.9.0.2]");
            assert_eq!(ask(&socket, &mapped), "guest?");
        }
    }
}

#[test]
fn dockers_server_and_the_guest_ask_other_servers() {
    let Some(networks) = Networks::new(1500) else {
        return;
    };
    networks.start(&[Local::Resolver]);
    let (name, value) = dns::PORTS_SYSCTL;
    networks.container.set(name, value);
    for server in ["192.0.2.1:53", "[2001:db8::1]:53"] {
        networks.world.echo(server, "server");
        let any = if server.contains('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        for namespace in [&networks.container, &networks.guest] {
            let answer = talk(namespace.connect(server).unwrap(), b"?");
            assert_eq!(answer, b"server?");
            assert_eq!(ask(&namespace.socket(any), server), "server?");
        }
    }
    let [.., resets, unreachable] = heard(&networks.container);
    assert_eq!([resets, unreachable], [0, 0]);
}

#[test]
fn interfaces_are_read_with_addresses_and_routes() {
    let Some(container) = Namespace::new() else {
        eprintln!("skipped: needs root");
        return;
    };
    container.set("net.ipv6.conf.default.accept_dad", "0");
    container.ip("link set lo up
        link add eth0 address 02:42:0a:09:00:02 mtu 1400 type veth peer other
        link set eth0 up
        link set other up
        link set other arp off
        address add 10.9.0.2/24 dev eth0
        address add 10.9.1.2/32 dev eth0
        address add fd09::2/64 dev eth0 nodad
        route add default via 10.9.0.1
        route add 192.0.2.0/24 via 10.9.0.7 metric 77
        route add 198.51.100.0/24 dev eth0
        route add blackhole 203.0.113.0/24
        -6 route add default via fd09::1
        link add idle type veth peer idler");
    let interfaces = container.run(|| interfaces::list(&mut Netlink::open().unwrap()).unwrap());
    let names: Vec<_> = interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["other", "eth0"], "up, and Ethernet");
    assert!(interfaces[0].addresses.is_empty(), "{interfaces:?}");
    assert_eq!(
        interfaces.iter().map(|i| i.arp).collect::<Vec<_>>(),
        [false, true]
    );
    let root = tempfile::tempdir().unwrap();
    let error = container.run(|| format!("{:#}", set_up(root.path(), None).unwrap_err()));
    assert!(
        error.contains("interface other") && error.contains("ipvlan"),
        "{error}"
    );
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let route = |to, prefix, by: Option<&str>, metric| runcvm_protocol::Route {
        destination: (ip(to), prefix),
        gateway: by.map(ip),
        metric,
    };
    let eth0 = &interfaces[1];
    assert_eq!((eth0.mac, eth0.mtu), (MAC, 1400));
    assert_eq!(
        eth0.addresses,
        [
            (ip("10.9.0.2"), 24),
            (ip("10.9.1.2"), 32),
            (ip("fd09::2"), 64)
        ]
    );
    assert_eq!(
        eth0.routes,
        [
            route("198.51.100.0", 24, None, None),
            route("0.0.0.0", 0, Some("10.9.0.1"), None),
            route("192.0.2.0", 24, Some("10.9.0.7"), Some(77)),
            route("::", 0, Some("fd09::1"), Some(1024)),
        ]
    );
}

#[test]
fn a_container_without_interfaces_has_no_network() {
    let Some(container) = Namespace::new() else {
        eprintln!("skipped: needs root");
        return;
    };
    container.ip("link set lo up");
    let root = tempfile::tempdir().unwrap();
    let network = container.run(|| set_up(root.path(), Some(5900)).unwrap());
    assert!(network.nets.is_empty() && !network.dns, "{network:?}");
}

#[test]
fn every_interface_gets_a_silent_tap() {
    let Some(container) = Namespace::new() else {
        eprintln!("skipped: needs root");
        return;
    };
    container.ip("link add eth0 type veth peer eth1
        link set eth0 addrgenmode none
        link set eth1 addrgenmode none
        link set eth0 up
        link set eth1 up");
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/resolv.conf"), "nameserver 127.0.0.11").unwrap();
    container.run(|| set_up(root.path(), None).unwrap());
    // Another machine in the same namespace finds what the first one left.
    let network = container.run(|| set_up(root.path(), None).unwrap());
    assert!(network.dns);
    let names: Vec<_> = network.nets.iter().map(|net| net.name.as_deref()).collect();
    assert_eq!(names, [Some("eth1"), Some("eth0")]);
    for net in &network.nets {
        let tap = container.run(|| attach(&net.tap));
        container.ip(&format!("link set {} up", net.tap));
        let mut frames = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        let waiting = poll(&mut frames, PollTimeout::from(500_u16)).unwrap();
        assert_eq!(waiting, 0, "the container's kernel talks to {}", net.tap);
    }
}
