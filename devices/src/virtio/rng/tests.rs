use super::*;
use crate::virtio::testing::{Buffer, Descriptor, Driver, NEXT, OUTSIDE, WRITE};

fn start(features: u64) -> (Rng, Driver) {
    let mut device = Rng::new();
    let driver = Driver::new(device.queue_max_sizes(), features);
    device.activate(driver.activation()).unwrap();
    (device, driver)
}

#[test]
fn requests_are_filled_with_random_numbers() {
    for features in [0, Rng::new().features()] {
        let (mut device, mut driver) = start(features);
        let (sent, len) = driver.queues[0].request(&[Buffer::Writable(100), Buffer::Writable(300)]);
        assert_eq!(len, 400);
        let (first, second) = (sent.buffers[0].0, sent.buffers[1].0);
        assert!(driver.read(first, 100).iter().any(|&byte| byte != 0));
        // The end of a buffer as well: 32 zeroes in a row are no chance.
        assert!(driver.read(second + 268, 32).iter().any(|&byte| byte != 0));
        driver
            .interrupt
            .wait("an interrupt", |raised| raised.queues.contains_key(&0));
        device.reset();
    }
}

#[test]
fn a_request_gets_a_bounded_number_of_bytes() {
    let (_device, mut driver) = start(0);
    let (sent, len) = driver.queues[0].request(&[Buffer::Writable(100_000)]);
    assert_eq!(u64::from(len), REQUEST_LIMIT);
    let rest = driver.read(sent.buffers[0].0 + REQUEST_LIMIT, 1000);
    assert_eq!(rest, [0; 1000]);
}

#[test]
fn what_a_driver_gets_wrong_is_used_with_nothing_written() {
    let (_device, mut driver) = start(0);
    let looped = Descriptor {
        addr: 0x8_0000,
        len: 16,
        flags: NEXT | WRITE,
        next: 0,
    };
    let queue = &mut driver.queues[0];
    assert_eq!(queue.request(&[Buffer::Readable(b"seed")]).1, 0);
    assert_eq!(queue.request(&[Buffer::WritableAt(OUTSIDE, 8)]).1, 0);
    assert_eq!(
        queue.request(&[Buffer::WritableAt(0x8_0000, u32::MAX)]).1,
        0
    );
    assert_eq!(queue.request(&[Buffer::Writable(0)]).1, 0);
    let next = queue.next_descriptor();
    queue.add_raw(&[Descriptor { next, ..looped }]);
    queue.kick();
    assert_eq!(queue.wait_used(), (next, 0));
    assert_eq!(queue.request(&[Buffer::Writable(8)]).1, 8);
}

#[test]
fn a_driver_that_breaks_its_rings_is_told_to_reset() {
    let breaks: [fn(&mut Driver); 2] = [
        |driver| driver.queues[0].make_available(64),
        |driver| driver.queues[0].set_avail_idx(65),
    ];
    for break_rings in breaks {
        let (mut device, mut driver) = start(0);
        break_rings(&mut driver);
        driver.queues[0].kick();
        driver
            .interrupt
            .wait("a call for a reset", |raised| raised.needs_reset);
        driver.queues[0].kick();

        device.reset();
        driver.queues[0].restart();
        device.activate(driver.activation()).unwrap();
        assert_eq!(driver.queues[0].request(&[Buffer::Writable(8)]).1, 8);
    }
}

#[test]
fn a_full_queue_is_served_to_the_end() {
    for features in [0, Rng::new().features()] {
        let (_device, mut driver) = start(features);
        for _ in 0..3 {
            let sent: Vec<_> = (0..64)
                .map(|_| driver.queues[0].add(&[Buffer::Writable(4)]).head)
                .collect();
            driver.queues[0].kick();
            for head in sent {
                assert_eq!(driver.queues[0].wait_used(), (head, 4));
            }
        }
    }
}

#[test]
fn a_device_without_its_queue_does_not_start() {
    let mut device = Rng::new();
    let mut activation = Driver::for_device(&device).activation();
    activation.queues.clear();
    let refused = device.activate(activation).unwrap_err();
    assert!(matches!(refused, ActivateError::MissingQueue(0)));
    device.reset();
}
