use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use super::*;
use crate::virtio::testing::{Buffer, Descriptor, Driver, NEXT, OUTSIDE, PATIENCE, WRITE};

mod on_tap;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A device whose tap is one end of a pair of sockets that keep frames apart.
struct Started {
    worker: Option<Worker<Handler>>,
    driver: Driver,
    host: UnixDatagram,
}

fn start(features: u64, mtu: Option<u16>) -> Started {
    let driver = Driver::new(&QUEUE_SIZES, features);
    start_driver(driver, mtu)
}

fn start_driver(driver: Driver, mtu: Option<u16>) -> Started {
    let (tap, host) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let tap = Arc::new(File::from(OwnedFd::from(tap)));
    let handler = Handler::new(tap, mtu, driver.activation()).unwrap();
    Started {
        worker: Some(Worker::spawn("test-net", handler).unwrap()),
        driver,
        host,
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            assert!(worker.stop().is_some(), "the device's thread panicked");
        }
    }
}

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const SEGMENTS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// A frame of `len` bytes, the header included, that differs from others by its `seed`.
fn frame(seed: usize, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len)
        .map(|i| u8::try_from((i * 7 + i / 256 + seed) % 251).unwrap())
        .collect();
    frame[NUM_BUFFERS..HEADER_LEN].fill(0xee);
    frame
}

/// Where the header has `num_buffers`.
const NUM_BUFFERS: usize = 10;

impl Started {
    fn post(&mut self, lens: &[u32]) -> Vec<(u16, u64)> {
        let queue = &mut self.driver.queues[RECEIVE];
        let posted = lens
            .iter()
            .map(|len| {
                let sent = queue.add(&[Buffer::Writable(*len)]);
                (sent.head, sent.buffers[0].0)
            })
            .collect();
        queue.kick();
        posted
    }

    /// Takes one received frame from the chains that were `posted`, as a driver does.
    fn take(&mut self, posted: &mut Vec<(u16, u64)>) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut left = 1;
        let mut chains = 0;
        while left > 0 {
            let (head, len) = if chains == 0 {
                self.driver.queues[RECEIVE].wait_used()
            } else {
                let used = self.driver.queues[RECEIVE].try_used();
                used.expect("the chains of a frame come together")
            };
            let (posted_head, addr) = posted.remove(0);
            assert_eq!(head, posted_head);
            frame.extend(self.driver.read(addr, len as usize));
            if chains == 0 {
                left = u16::from_le_bytes([frame[NUM_BUFFERS], frame[NUM_BUFFERS + 1]]);
            }
            chains += 1;
            left -= 1;
        }
        frame
    }

    fn expect_frame(&mut self, posted: &mut Vec<(u16, u64)>, sent: &[u8], chains: u16) {
        let mut expected = sent.to_vec();
        expected[NUM_BUFFERS..HEADER_LEN].copy_from_slice(&chains.to_le_bytes());
        assert_eq!(self.take(posted), expected);
    }

    /// What the host gets, at most 100,000 bytes.
    fn host_frame(&self) -> Vec<u8> {
        let mut data = vec![0; 100_000];
        let len = self.host.recv(&mut data).unwrap();
        data.truncate(len);
        data
    }
}

#[test]
fn frames_are_sent_whole_and_in_order() {
    let mut net = start(EVENT_IDX, None);
    for (i, len) in [13, 60, 1526, 9030, MAX_FRAME].into_iter().enumerate() {
        let sent = frame(i, len);
        let (first, rest) = sent.split_at(5);
        let (second, third) = rest.split_at(7);
        let (_, written) = net.driver.queues[TRANSMIT].request(&[
            Buffer::Readable(first),
            Buffer::Readable(second),
            Buffer::Readable(third),
        ]);
        assert_eq!(written, 0);
        assert_eq!(net.host_frame(), sent);
    }
}

#[test]
fn frames_of_bad_form_are_dropped() {
    let mut net = start(0, None);
    let queue = &mut net.driver.queues[TRANSMIT];
    let good = frame(1, 100);
    let oversize = frame(2, MAX_FRAME + 1);
    for buffers in [
        &[Buffer::Readable(b"")][..],
        &[Buffer::Readable(&good[..12])],
        &[Buffer::Readable(&oversize)],
        &[Buffer::Writable(100)],
        &[Buffer::ReadableAt(OUTSIDE, 100)],
        &[Buffer::ReadableAt(0, u32::MAX)],
        &[Buffer::Readable(&good), Buffer::ReadableAt(OUTSIDE, 1)],
        &[Buffer::Writable(1), Buffer::Readable(&good)],
    ] {
        assert_eq!(queue.request(buffers).1, 0);
    }
    let next = queue.next_descriptor();
    queue.add_raw(&[Descriptor {
        addr: 0x8_0000,
        len: 100,
        flags: NEXT,
        next,
    }]);
    queue.kick();
    assert_eq!(queue.wait_used(), (next, 0));
    queue.request(&[Buffer::Readable(&good)]);
    assert_eq!(net.host_frame(), good, "and nothing came before");
}

#[test]
fn a_host_that_takes_no_frames_holds_them_back_and_loses_none() {
    let mut net = start(EVENT_IDX, None);
    let frames: Vec<_> = (0..200).map(|i| frame(i, 9000)).collect();
    let queue = &mut net.driver.queues[TRANSMIT];
    let heads: Vec<_> = frames
        .iter()
        .map(|frame| queue.add(&[Buffer::Readable(frame)]).head)
        .collect();
    queue.kick();
    thread::sleep(Duration::from_millis(20));
    for frame in &frames {
        assert_eq!(&net.host_frame(), frame);
    }
    for head in heads {
        assert_eq!(net.driver.queues[TRANSMIT].wait_used(), (head, 0));
    }
}

#[test]
fn frames_are_received_in_one_buffer_each() {
    for features in [0, EVENT_IDX, MERGEABLE, SEGMENTS, SEGMENTS | MERGEABLE] {
        let mut net = start(features, None);
        let mut posted = net.post(&[2000; 4]);
        for (i, len) in [26, 1526, 60].into_iter().enumerate() {
            let sent = frame(i, len);
            net.host.send(&sent).unwrap();
            net.expect_frame(&mut posted, &sent, 1);
        }
        assert_eq!(net.driver.queues[RECEIVE].try_used(), None);
    }
}

#[test]
fn a_header_may_be_split_over_descriptors() {
    let mut net = start(0, None);
    let sent = net.driver.queues[RECEIVE].add(&[
        Buffer::Writable(3),
        Buffer::Writable(8),
        Buffer::Writable(0),
        Buffer::Writable(2000),
    ]);
    net.driver.queues[RECEIVE].kick();
    net.host.send(&frame(3, 500)).unwrap();
    assert_eq!(net.driver.queues[RECEIVE].wait_used(), (sent.head, 500));
    let addrs: Vec<_> = sent.buffers.iter().map(|(addr, _)| *addr).collect();
    let mut got = net.driver.read(addrs[0], 3);
    got.extend(net.driver.read(addrs[1], 8));
    got.extend(net.driver.read(addrs[3], 489));
    let mut expected = frame(3, 500);
    expected[NUM_BUFFERS..HEADER_LEN].copy_from_slice(&[1, 0]);
    assert_eq!(got, expected);
}

#[test]
fn large_frames_take_several_buffers() {
    for features in [MERGEABLE | SEGMENTS, MERGEABLE | SEGMENTS | EVENT_IDX] {
        let mut net = start(features, None);
        let mut posted = net.post(&[1536; 100]);
        for (i, len) in [MAX_FRAME, 100, 1536, 1537, 9030].into_iter().enumerate() {
            let sent = frame(i, len);
            net.host.send(&sent).unwrap();
            let chains = u16::try_from(len.div_ceil(1536)).unwrap();
            net.expect_frame(&mut posted, &sent, chains);
        }
    }
}

#[test]
fn frames_longer_than_expected_are_not_cut() {
    // No offload and no MTU: 1500 bytes are expected.
    let mut net = start(MERGEABLE, None);
    let mut posted = net.post(&[1600; 50]);
    for (i, len) in [9030, 1530, 60_000].into_iter().enumerate() {
        let sent = frame(i, len);
        net.host.send(&sent).unwrap();
        let chains = u16::try_from(len.div_ceil(1600)).unwrap();
        net.expect_frame(&mut posted, &sent, chains);
    }
}

#[test]
fn frames_wait_for_buffers() {
    for features in [MERGEABLE | SEGMENTS, MERGEABLE, MERGEABLE | EVENT_IDX] {
        let mut net = start(features, None);
        let small = frame(1, 100);
        let large = frame(2, 9000);
        net.host.send(&small).unwrap();
        net.host.send(&large).unwrap();
        net.host.send(&small).unwrap();
        let mut posted = net.post(&[2000]);
        net.expect_frame(&mut posted, &small, 1);
        posted.extend(net.post(&[2000; 3]));
        thread::sleep(Duration::from_millis(5));
        assert_eq!(net.driver.queues[RECEIVE].try_used(), None);
        posted.extend(net.post(&[2000; 3]));
        net.expect_frame(&mut posted, &large, 5);
        net.expect_frame(&mut posted, &small, 1);
    }
}

#[test]
fn a_frame_that_waits_does_so_for_every_further_buffer() {
    let mut net = start(MERGEABLE | EVENT_IDX, None);
    let large = frame(2, 9000);
    net.host.send(&large).unwrap();
    let mut posted = Vec::new();
    for _ in 0..5 {
        // The device has found that there is too little, and sleeps.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(net.driver.queues[RECEIVE].try_used(), None);
        let queue = &mut net.driver.queues[RECEIVE];
        let sent = queue.add(&[Buffer::Writable(2000)]);
        queue.kick_if_wanted();
        posted.push((sent.head, sent.buffers[0].0));
    }
    net.expect_frame(&mut posted, &large, 5);
}

#[test]
fn without_merging_a_frame_that_is_too_long_is_dropped() {
    let mut net = start(0, None);
    let mut posted = net.post(&[1000; 3]);
    net.host.send(&frame(1, 1001)).unwrap();
    net.host.send(&frame(2, 1000)).unwrap();
    net.expect_frame(&mut posted, &frame(2, 1000), 1);
}

#[test]
fn a_frame_that_no_ring_full_of_buffers_holds_is_dropped() {
    let mut net = start_driver(Driver::new(&[4, 4], MERGEABLE | SEGMENTS), None);
    let mut posted = net.post(&[1000; 4]);
    net.host.send(&frame(1, 4001)).unwrap();
    net.host.send(&frame(2, 4000)).unwrap();
    net.expect_frame(&mut posted, &frame(2, 4000), 4);
}

#[test]
fn buffers_of_bad_form_come_back_empty() {
    for features in [0, MERGEABLE | SEGMENTS] {
        let mut net = start(features, None);
        let queue = &mut net.driver.queues[RECEIVE];
        for buffer in [
            Buffer::Writable(11),
            Buffer::Writable(0),
            Buffer::Readable(&[0; 100]),
            Buffer::WritableAt(OUTSIDE, 2000),
            Buffer::WritableAt(0x1000, u32::MAX),
        ] {
            assert_eq!(queue.request(&[buffer]).1, 0);
        }
        let next = queue.next_descriptor();
        queue.add_raw(&[Descriptor {
            addr: 0x8_0000,
            len: 2000,
            flags: NEXT | WRITE,
            next,
        }]);
        queue.kick();
        assert_eq!(queue.wait_used(), (next, 0));
        let mut posted = net.post(&[2000]);
        net.host.send(&frame(1, 500)).unwrap();
        net.expect_frame(&mut posted, &frame(1, 500), 1);
    }
}

#[test]
fn a_bad_buffer_does_not_come_between_those_of_a_frame() {
    let mut net = start(MERGEABLE | SEGMENTS, None);
    let queue = &mut net.driver.queues[RECEIVE];
    let first = queue.add(&[Buffer::Writable(1000)]);
    let bad = queue.add(&[Buffer::WritableAt(OUTSIDE, 1000)]);
    let last = queue.add(&[Buffer::Writable(1000)]);
    queue.kick();
    // Too long for the first, and the second is no use: it is dropped.
    net.host.send(&frame(1, 1500)).unwrap();
    net.host.send(&frame(2, 800)).unwrap();
    net.host.send(&frame(3, 900)).unwrap();
    let queue = &mut net.driver.queues[RECEIVE];
    assert_eq!(queue.wait_used(), (first.head, 800));
    assert_eq!(queue.wait_used(), (bad.head, 0));
    assert_eq!(queue.wait_used(), (last.head, 900));
}

#[test]
fn a_driver_that_breaks_its_rings_is_told_to_reset() {
    let breaks: [fn(&mut Driver); 2] = [
        |driver| driver.queues[RECEIVE].make_available(256),
        |driver| driver.queues[RECEIVE].set_avail_idx(257),
    ];
    for break_rings in breaks {
        let mut net = start(MERGEABLE, None);
        break_rings(&mut net.driver);
        net.driver.queues[RECEIVE].kick();
        net.host.send(&frame(1, 100)).unwrap();
        net.driver
            .interrupt
            .wait("a call for a reset", |raised| raised.needs_reset);
        // The other queue goes on.
        let sent = frame(2, 100);
        net.driver.queues[TRANSMIT].request(&[Buffer::Readable(&sent)]);
        assert_eq!(net.host_frame(), sent);
    }
}

#[test]
fn many_frames_arrive_in_order() {
    for features in [0, EVENT_IDX, MERGEABLE | SEGMENTS | EVENT_IDX] {
        let mut net = start(features, None);
        let host = net.host.try_clone().unwrap();
        let sender = thread::spawn(move || {
            for i in 0..3000 {
                host.send(&frame(i, 60 + i % 1400)).unwrap();
            }
        });
        let mut posted = net.post(&[1600; 64]);
        for i in 0..3000 {
            net.expect_frame(&mut posted, &frame(i, 60 + i % 1400), 1);
            posted.extend(net.post(&[1600]));
        }
        sender.join().unwrap();
    }
}

#[test]
fn an_address_or_mtu_that_cannot_be_is_refused() {
    let spec = |mac, mtu| NetSpec {
        tap: File::open("/dev/null").unwrap(),
        mac,
        mtu,
    };
    let error = |mac, mtu| Net::new(spec(mac, mtu)).unwrap_err().to_string();
    let mac = [2, 0, 0, 0, 0, 1];
    assert_eq!(
        error([1, 0, 0x5e, 0, 0, 1], None),
        "01:00:5e:00:00:01 is no hardware address of an interface: it is zero or for a group"
    );
    assert!(error([0; 6], None).starts_with("00:00:00:00:00:00 is no"));
    assert_eq!(
        error(mac, Some(67)),
        "An MTU of 67 is too small: it must be 68 to 65535"
    );
    assert!(error(mac, Some(68)).starts_with("The file is no tap"));
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    for name in [
        "",
        "sixteen-letters!",
        "a/b",
        "a b",
        ".",
        "..",
        "tap%d",
        "tap\0",
        "täp",
    ] {
        let error = open_tap(name).unwrap_err();
        assert!(matches!(error, TapError::BadName(_)), "{name:?}: {error}");
    }
}
