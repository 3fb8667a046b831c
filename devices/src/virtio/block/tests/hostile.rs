//! Drivers that ask for what is not theirs, or make no sense.

use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{Descriptor, INDIRECT, MEMORY_SIZE, NEXT, OUTSIDE, WRITE};

/// Where guest memory is full of requests.
const REQUESTS: u64 = 0x80_0000;

#[test]
fn what_lies_past_the_end_is_refused() {
    let mut disk = start();
    let end = SECTORS as u64;
    for sector in [end, end - 1, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1] {
        assert_eq!(
            disk.request(&header(0, sector), 1024).0,
            IO_ERROR,
            "{sector}"
        );
        let mut write = header(1, sector);
        write.extend([1; 1024]);
        assert_eq!(disk.status(&write), IO_ERROR);
        for kind in [11, 13] {
            let mut erase = header(kind, 0);
            erase.extend(range(sector, 2, 0));
            assert_eq!(disk.status(&erase), IO_ERROR);
        }
    }
    assert_eq!(content(&disk.file, 63, 1), [63; 512]);
    assert_eq!(disk.file.metadata().unwrap().len(), 512 * end);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut disk = start();
    let mut partial = header(1, 0);
    partial.extend([1; 511]);
    assert_eq!(disk.status(&partial), IO_ERROR);
    assert_eq!(disk.request(&header(0, 0), 100).0, IO_ERROR);
    assert_eq!(disk.status(&header(0, 0)[..15]), IO_ERROR);
    assert_eq!(disk.status(&header(99, 0)), UNSUPPORTED);
    // Data of the wrong direction.
    assert_eq!(disk.request(&header(1, 0), 512).0, IO_ERROR);
    let mut read = header(0, 0);
    read.extend([0; 512]);
    assert_eq!(disk.status(&read), IO_ERROR);
    let mut discard = header(11, 0);
    discard.extend(range(0, 1, 1));
    assert_eq!(disk.status(&discard), UNSUPPORTED);
    assert_eq!(content(&disk.file, 0, 1), [0; 512]);
}

#[test]
fn broken_chains_are_used_with_nothing_written() {
    let mut disk = start();
    let header = header(0, 0);
    let queue = &mut disk.driver.queues[0];
    // No status byte.
    assert_eq!(queue.request(&[Buffer::Readable(&header)]).1, 0);
    assert_eq!(
        queue
            .request(&[Buffer::Readable(&header), Buffer::Writable(0)])
            .1,
        0
    );
    // Nothing at all.
    assert_eq!(queue.request(&[Buffer::Readable(b"")]).1, 0);
    // Memory that is none.
    for (addr, len) in [(OUTSIDE, 512), (0, u32::MAX), (MEMORY_SIZE - 1, 2)] {
        for buffers in [
            [
                Buffer::Readable(&header),
                Buffer::WritableAt(addr, len),
                Buffer::Writable(1),
            ],
            [
                Buffer::ReadableAt(addr, len),
                Buffer::Writable(512),
                Buffer::Writable(1),
            ],
        ] {
            assert_eq!(queue.request(&buffers).1, 0);
        }
    }
    // Status before data that is to be read.
    assert_eq!(
        queue
            .request(&[Buffer::Writable(1), Buffer::Readable(&header)])
            .1,
        0
    );
    // A loop.
    let next = queue.next_descriptor();
    queue.add_raw(&[Descriptor {
        addr: 0x8_0000,
        len: 16,
        flags: NEXT,
        next,
    }]);
    queue.kick();
    assert_eq!(queue.wait_used(), (next, 0));
    assert_eq!(disk.request(&header, 512).0, OK);
}

#[test]
fn a_file_cut_short_by_the_host_is_an_error() {
    let mut disk = start();
    disk.file.set_len(512).unwrap();
    assert_eq!(disk.request(&header(0, 1), 512).0, IO_ERROR);
    assert_eq!(disk.request(&header(0, 0), 512).0, OK);
}

/// Descriptors that point at requests, at the end of memory and at nothing, but never at the
/// rings: a device that writes over those cannot be asked how it fared.
fn descriptors() -> impl Strategy<Value = Vec<Descriptor>> {
    let addr = prop_oneof![
        8 => (0..0x100u64).prop_map(|i| REQUESTS + 16 * i),
        2 => REQUESTS..REQUESTS + 0x4000,
        1 => MEMORY_SIZE - 600..MEMORY_SIZE + 600,
        1 => OUTSIDE..,
    ];
    let len = prop_oneof![
        Just(0),
        Just(1),
        Just(16),
        Just(32),
        Just(512),
        0..5000u32,
        any::<u32>()
    ];
    let flags = prop_oneof![
        8 => prop_oneof![Just(0), Just(NEXT), Just(NEXT | WRITE), Just(WRITE)],
        1 => Just(INDIRECT),
        1 => any::<u16>(),
    ];
    let next = prop_oneof![8 => 0..8u16, 1 => any::<u16>()];
    let descriptor = (addr, len, flags, next).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    });
    vec(descriptor, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Memory is full of bytes that look like requests, and chains are arbitrary.
    #[test]
    fn no_chain_harms_the_device(kind in 0..14u8, chain in descriptors()) {
        let mut disk = start();
        let mut pattern = header(u32::from(kind), 1);
        pattern.extend(range(2, 1, 0));
        let pattern: Vec<u8> = pattern.into_iter().cycle().take(1 << 16).collect();
        disk.driver.memory.write_slice(&pattern, GuestAddress(REQUESTS)).unwrap();
        let queue = &mut disk.driver.queues[0];
        let head = queue.add_raw(&chain);
        queue.kick();
        prop_assert_eq!(queue.wait_used().0, head);
        prop_assert_eq!(disk.file.metadata().unwrap().len(), 512 * SECTORS as u64);
        prop_assert_eq!(disk.request(&header(0, 1), 512).0, OK);
    }
}
