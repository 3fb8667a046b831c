//! The device on a real tap, in a network namespace of the test's own. Without the right to
//! make one, these tests say so and pass.

use std::io;

use super::*;

/// An Ethernet type for experiments, by which our frames are told from the kernel's.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs `test` on a thread in a new network namespace.
fn isolated(test: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        // SAFETY: changes nothing but this thread's namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            eprintln!("skipped: {}", io::Error::last_os_error());
            return;
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            eprintln!("skipped: no /dev/net/tun");
            return;
        }
        test();
    })
    .join()
    .unwrap();
}

fn socket(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;

    // SAFETY: makes a new descriptor, or fails.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn interface_ioctl(request: libc::Ioctl, name: &str, value: libc::c_int) {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
    let mut ifreq = tap::interface_request(name);
    if request == libc::SIOCSIFFLAGS {
        ifreq.ifr_ifru.ifru_flags = i16::try_from(value).unwrap();
    } else {
        ifreq.ifr_ifru.ifru_mtu = value;
    }
    // SAFETY: both requests read an `ifreq`.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw const ifreq) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// The host's end of the interface `name`: frames with a virtio-net header of 10 bytes.
struct Host(OwnedFd);

impl Host {
    fn new(name: &str, mtu: libc::c_int) -> Self {
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        interface_ioctl(libc::SIOCSIFMTU, name, mtu);
        interface_ioctl(libc::SIOCSIFFLAGS, name, libc::IFF_UP);
        let all = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all));
        let on = 1i32;
        // SAFETY: both options read an int and a timeval; bind reads an address.
        unsafe {
            let set = libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                4,
            );
            assert_eq!(set, 0, "{}", io::Error::last_os_error());
            let patience = libc::timeval {
                tv_sec: 10,
                tv_usec: 0,
            };
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap(),
            );
            let name = std::ffi::CString::new(name).unwrap();
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = all;
            address.sll_ifindex = i32::try_from(libc::if_nametoindex(name.as_ptr())).unwrap();
            let bound = libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap(),
            );
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        }
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        use std::io::Write;

        let sent = File::from(self.0.try_clone().unwrap())
            .write(frame)
            .unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The next frame of ours that came from the guest.
    fn receive(&self) -> Vec<u8> {
        use std::io::Read;

        loop {
            let mut data = vec![0; 100_000];
            let len = File::from(self.0.try_clone().unwrap())
                .read(&mut data)
                .unwrap();
            data.truncate(len);
            if is_ours(&data[10..]) {
                return data;
            }
        }
    }
}

fn is_ours(frame: &[u8]) -> bool {
    frame[12..14] == ETHER_TYPE || frame[6..12] == MAC || frame[..6] == MAC
}

/// A frame of our own type, to `to`.
fn plain(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(ETHER_TYPE);
    frame.extend((14..len).map(|i| u8::try_from(i % 251).unwrap()));
    frame
}

/// A TCP segment of `payload` bytes over IPv4 from one MAC to another, without checksums, and
/// the header that has it cut into segments of 1000 bytes.
fn segments(from: [u8; 6], to: [u8; 6], payload: usize) -> (Vec<u8>, Vec<u8>) {
    let mut frame = to.to_vec();
    frame.extend(from);
    frame.extend([8, 0]);
    let total = u16::try_from(40 + payload).unwrap();
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|i| u8::try_from(i % 241).unwrap()));
    // NEEDS_CSUM, GSO_TCPV4, header length, segment size, checksum's start and offset.
    let mut header = vec![1, 1];
    for field in [54u16, 1000, 34, 16] {
        header.extend(field.to_le_bytes());
    }
    (header, frame)
}

struct OnTap {
    device: Net,
    driver: Driver,
    host: Host,
}

fn start_on_tap(name: &str, mtu: u16, features: impl FnOnce(u64) -> u64) -> OnTap {
    let mut device = Net::new(NetSpec {
        tap: open_tap(name).unwrap(),
        mac: MAC,
        mtu: Some(mtu),
    })
    .unwrap();
    let host = Host::new(name, mtu.into());
    let driver = Driver::new(&QUEUE_SIZES, features(device.features()));
    device.activate(driver.activation()).unwrap();
    OnTap {
        device,
        driver,
        host,
    }
}

impl OnTap {
    fn send(&mut self, header: &[u8], frame: &[u8]) {
        let mut header = header.to_vec();
        header.resize(HEADER_LEN, 0);
        let buffers = [Buffer::Readable(&header), Buffer::Readable(frame)];
        self.driver.queues[TRANSMIT].request(&buffers);
    }

    /// The next frame of ours that the guest receives, with its header.
    fn receive(&mut self) -> Vec<u8> {
        loop {
            let queue = &mut self.driver.queues[RECEIVE];
            let sent = queue.add(&[Buffer::Writable(70_000)]);
            queue.kick();
            let (head, len) = queue.wait_used();
            assert_eq!(head, sent.head);
            let frame = self.driver.read(sent.buffers[0].0, len as usize);
            if is_ours(&frame[HEADER_LEN..]) {
                return frame;
            }
        }
    }
}

#[test]
fn frames_pass_both_ways() {
    for mtu in [1500, 9000] {
        isolated(move || {
            let mut net = start_on_tap("tap0", mtu, |features| features);
            for len in [60, usize::from(mtu) + 14] {
                let to_host = plain([2, 0, 0, 0, 0, 2], len);
                net.send(&[], &to_host);
                assert_eq!(net.host.receive()[10..], to_host);
                let to_guest = plain(MAC, len);
                net.host.send(&[&[0; 10], &to_guest[..]].concat());
                let received = net.receive();
                assert_eq!(received[HEADER_LEN..], to_guest);
                assert_eq!(received[NUM_BUFFERS..HEADER_LEN], [1, 0]);
            }
        });
    }
}

#[test]
fn frames_of_64_kib_pass_uncut() {
    isolated(|| {
        let mut net = start_on_tap("tap0", 1500, |features| features);
        let other = [2, 0, 0, 0, 0, 2];
        let (header, frame) = segments(MAC, other, 65_000);
        net.send(&header, &frame);
        let received = net.host.receive();
        assert_eq!(received.len(), 10 + frame.len());
        assert_eq!(received[10..], frame);

        let (header, frame) = segments(other, MAC, 65_000);
        net.host.send(&[&header[..], &frame].concat());
        let received = net.receive();
        assert_eq!(received.len(), HEADER_LEN + frame.len());
        assert_eq!(received[1], 1, "GSO_TCPV4");
        assert_eq!(received[4..6], 1000u16.to_le_bytes());
    });
}

#[test]
fn a_driver_without_offloads_gets_plain_frames() {
    isolated(|| {
        let mut net = start_on_tap("tap0", 1500, |_| 0);
        let (header, frame) = segments([2, 0, 0, 0, 0, 2], MAC, 3000);
        net.host.send(&[&header[..], &frame].concat());
        for _ in 0..3 {
            let received = net.receive();
            assert_eq!(received.len(), HEADER_LEN + 54 + 1000);
            assert_eq!(
                received[..2],
                [0, 0],
                "neither checksum nor segmentation is left to do"
            );
        }
    });
}

#[test]
fn bad_headers_are_dropped_and_the_device_goes_on() {
    isolated(|| {
        let mut net = start_on_tap("tap0", 1500, |features| features);
        let frame = plain([2, 0, 0, 0, 0, 2], 100);
        for header in [[0xff; 10], [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
            net.send(&header, &frame);
        }
        net.send(&[], &frame[..5]);
        let last = plain([2, 0, 0, 0, 0, 2], 200);
        net.send(&[], &last);
        assert_eq!(net.host.receive()[10..], last);
    });
}

#[test]
fn a_reset_device_takes_the_tap_again() {
    isolated(|| {
        let mut net = start_on_tap("tap0", 1500, |features| features);
        let (header, segment) = segments([2, 0, 0, 0, 0, 2], MAC, 3000);
        for _ in 0..3 {
            let frame = plain(MAC, 300);
            net.host.send(&[&[0; 10], &frame[..]].concat());
            assert_eq!(net.receive()[HEADER_LEN..], frame);
            // Waits in the tap, and is not for the next driver.
            net.host.send(&[&header[..], &segment].concat());
            net.device.reset();
            for queue in &mut net.driver.queues {
                queue.restart();
            }
            net.device.activate(net.driver.activation()).unwrap();
        }
    });
}

#[test]
fn an_interface_that_goes_away_or_down_does_no_harm() {
    isolated(|| {
        let mut net = start_on_tap("tap0", 1500, |features| features);
        let frame = plain([2, 0, 0, 0, 0, 2], 100);
        interface_ioctl(libc::SIOCSIFFLAGS, "tap0", 0);
        net.send(&[], &frame);
        interface_ioctl(libc::SIOCSIFFLAGS, "tap0", libc::IFF_UP);
        net.send(&[], &frame);
        net.driver.queues[RECEIVE].add(&[Buffer::Writable(2000)]);
        net.driver.queues[RECEIVE].kick();
        net.device.reset();
    });
}

#[test]
fn taps_are_opened_once_and_go_with_their_file() {
    isolated(|| {
        let file = open_tap("tap7").unwrap();
        assert!(tap::is_usable(&file));
        assert!(matches!(open_tap("tap7"), Err(TapError::InUse(name)) if name == "tap7"));
        assert!(matches!(open_tap("lo"), Err(TapError::NotATap(_))));
        let is_there = || {
            let name = std::ffi::CString::new("tap7").unwrap();
            // SAFETY: reads a string.
            unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
        };
        assert!(is_there());
        drop(file);
        assert!(!is_there());
        assert!(!tap::is_usable(&File::open("/dev/null").unwrap()));
        assert!(!tap::is_usable(&File::open("/dev/net/tun").unwrap()));
    });
}
