use super::*;
use crate::virtio::testing::{Buffer, Driver};

const EVENT_IDX: u64 = 1 << 29;

fn vring(driver: &Driver) -> Vring {
    Vring::new(
        driver.activation().queues.remove(0),
        driver.interrupt.clone(),
    )
}

fn interrupts(driver: &Driver) -> u64 {
    driver
        .interrupt
        .raised()
        .queues
        .get(&0)
        .copied()
        .unwrap_or(0)
}

#[test]
fn the_driver_is_told_once_of_what_was_used() {
    for features in [0, EVENT_IDX] {
        let mut driver = Driver::new(&[8], features);
        let memory = driver.memory.clone();
        let mut vring = vring(&driver);
        vring.notify(&memory).unwrap();
        assert_eq!(interrupts(&driver), 0);
        for round in 1..=20 {
            for _ in 0..3 {
                driver.queues[0].add(&[Buffer::Writable(1)]);
            }
            vring.serve(&memory, |_| Served::Used(0));
            vring.notify(&memory).unwrap();
            assert_eq!(interrupts(&driver), round);
            while driver.queues[0].try_used().is_some() {}
        }
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut driver = Driver::new(&[8], 0);
    let memory = driver.memory.clone();
    let mut vring = vring(&driver);
    memory
        .write_obj(1u16, GuestAddress(vring.queue.avail_ring()))
        .unwrap();
    driver.queues[0].add(&[Buffer::Writable(1)]);
    vring.serve(&memory, |_| Served::Used(0));
    assert_eq!(interrupts(&driver), 0);
    assert!(driver.queues[0].try_used().is_some());

    // With event index: not before the fifth.
    let mut driver = Driver::new(&[8], EVENT_IDX);
    let memory = driver.memory.clone();
    let mut vring = self::vring(&driver);
    let used_event = vring.queue.avail_ring() + 4 + 2 * 8;
    memory.write_obj(4u16, GuestAddress(used_event)).unwrap();
    for expected in [0, 0, 1, 1] {
        driver.queues[0].add(&[Buffer::Writable(1)]);
        driver.queues[0].add(&[Buffer::Writable(1)]);
        vring.serve(&memory, |_| Served::Used(0));
        assert_eq!(interrupts(&driver), expected);
    }
}

#[test]
fn chains_used_together_appear_together() {
    for features in [0, EVENT_IDX] {
        let mut driver = Driver::new(&[8], features);
        let memory = driver.memory.clone();
        let mut vring = vring(&driver);
        for round in 1..=10 {
            let heads: Vec<_> = (0..3)
                .map(|_| driver.queues[0].add(&[Buffer::Writable(1)]).head)
                .collect();
            while vring.pop(&memory).unwrap().is_some() {}
            let used: Vec<_> = heads.iter().map(|head| (*head, 7)).collect();
            vring.add_used_together(&memory, &used).unwrap();
            vring.notify(&memory).unwrap();
            assert_eq!(interrupts(&driver), round);
            let seen: Vec<_> = std::iter::from_fn(|| driver.queues[0].try_used()).collect();
            assert_eq!(seen, used);
        }
        vring.add_used_together(&memory, &[]).unwrap();
        vring
            .add_used_together(&memory, &[(8, 0), (0, 0)])
            .unwrap_err();
        vring
            .add_used_together(&memory, &[(0, 0), (8, 0)])
            .unwrap_err();
        assert_eq!(driver.queues[0].try_used(), None);
    }
}

#[test]
fn chains_that_must_wait_stay_available() {
    let mut driver = Driver::new(&[8], EVENT_IDX);
    let memory = driver.memory.clone();
    let mut vring = vring(&driver);
    let heads = [0, 1].map(|_| driver.queues[0].add(&[Buffer::Writable(1)]).head);
    for _ in 0..2 {
        let mut seen = Vec::new();
        vring.serve(&memory, |chain| {
            seen.push(chain.head_index());
            Served::Later
        });
        assert_eq!(seen, heads[..1]);
    }
    vring.serve(&memory, |_| Served::Used(3));
    assert_eq!(driver.queues[0].try_used(), Some((heads[0], 3)));
    assert_eq!(driver.queues[0].try_used(), Some((heads[1], 3)));
}

#[test]
fn a_driver_that_never_stops_does_not_keep_the_thread() {
    let mut driver = Driver::new(&[8], 0);
    let memory = driver.memory.clone();
    let mut vring = vring(&driver);
    driver.queues[0].add(&[Buffer::Writable(1)]);
    let mut served = 0;
    vring.serve(&memory, |_| {
        served += 1;
        assert!(served < 100);
        driver.queues[0].add(&[Buffer::Writable(1)]);
        Served::Used(0)
    });
    assert_eq!(served, 8);
    assert!(vring.kick.read().is_ok(), "it comes back by itself");
}

#[test]
fn a_broken_ring_is_reported_once_and_left_alone() {
    let mut driver = Driver::new(&[8], 0);
    let memory = driver.memory.clone();
    let mut vring = vring(&driver);
    driver.queues[0].set_avail_idx(9);
    vring.serve(&memory, |_| unreachable!());
    assert!(driver.interrupt.raised().needs_reset);
    driver.queues[0].set_avail_idx(1);
    vring.serve(&memory, |_| unreachable!());
    assert!(vring.pop(&memory).unwrap().is_none());
}
