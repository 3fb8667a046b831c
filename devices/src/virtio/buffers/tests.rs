use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;

use virtio_queue::{Queue, QueueOwnedT};

use super::*;
use crate::virtio::testing::{Buffer, Descriptor as Raw, Driver, INDIRECT, NEXT, OUTSIDE, WRITE};

/// Adds a chain by `add`, and gives what [`split_chain`] makes of it to `check`.
fn with_chain(
    add: impl FnOnce(&mut Driver),
    check: impl FnOnce(&Driver, Result<(Buffers, Buffers), ChainError>),
) {
    let mut driver = Driver::new(&[16], 0);
    add(&mut driver);
    let mut queue: Queue = driver.activation().queues.remove(0).queue;
    let memory = driver.memory.as_ref();
    let chain = queue.iter(memory).unwrap().next().unwrap();
    check(&driver, split_chain(memory, chain));
}

fn error(add: impl FnOnce(&mut Driver)) -> ChainError {
    let mut found = None;
    with_chain(add, |_, split| found = split.err());
    found.expect("the chain is refused")
}

#[test]
fn buffers_are_split_by_direction() {
    for indirect in [false, true] {
        with_chain(
            |driver| {
                let buffers = [
                    Buffer::Readable(b"ab"),
                    Buffer::Readable(b""),
                    Buffer::Readable(b"cde"),
                    Buffer::Writable(3),
                    Buffer::Writable(4),
                ];
                if indirect {
                    driver.queues[0].add_indirect(&buffers);
                } else {
                    driver.queues[0].add(&buffers);
                }
            },
            |_, split| {
                let (mut readable, mut writable) = split.unwrap();
                assert_eq!((readable.len(), writable.len()), (5, 7));
                let mut front = [0; 4];
                assert_eq!(readable.copy_to(&mut front), 4);
                assert_eq!(&front, b"abcd");
                assert_eq!(readable.copy_to(&mut [0; 9]), 5);
                assert_eq!(readable.read_array(), Some(*b"abc"));
                assert_eq!(readable.read_array::<3>(), None);
                assert_eq!(readable.read_array(), Some(*b"de"));
                assert!(readable.is_empty());
                let last = writable.take_front(6);
                assert_eq!((last.len(), writable.len()), (6, 1));
                writable.advance(100);
                assert!(writable.is_empty());
            },
        );
    }
}

#[test]
fn writes_stop_at_the_end() {
    with_chain(
        |driver| {
            driver.queues[0].add(&[
                Buffer::WritableAt(0x8_0000, 3),
                Buffer::WritableAt(0x9_0000, 3),
            ]);
        },
        |driver, split| {
            let (_, mut writable) = split.unwrap();
            assert_eq!(writable.write(b"12345678"), 6);
            assert_eq!(writable.write(b"9"), 0);
            assert_eq!(driver.read(0x8_0000, 4), b"123\0");
            assert_eq!(driver.read(0x9_0000, 4), b"456\0");
        },
    );
}

#[test]
fn files_are_read_and_written_whole() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    with_chain(
        |driver| {
            driver.queues[0].add(&[
                Buffer::Readable(b"ABC"),
                Buffer::Readable(b"DE"),
                Buffer::WritableAt(0x8_0000, 4),
                Buffer::WritableAt(0x9_0000, 2),
            ]);
        },
        |driver, split| {
            let (readable, mut writable) = split.unwrap();
            let rest = writable.take_front(5);
            rest.read_all_from(file.as_fd(), 2).unwrap();
            assert_eq!(driver.read(0x8_0000, 4), b"2345");
            assert_eq!(driver.read(0x9_0000, 2), b"6\0");
            let short = writable.read_all_from(file.as_fd(), 10).unwrap_err();
            assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
            readable.write_all_to(file.as_fd(), 8).unwrap();
        },
    );
    let mut content = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "01234567ABCDE");
}

#[test]
fn offsets_past_the_greatest_file_are_an_error() {
    let file = tempfile::tempfile().unwrap();
    with_chain(
        |driver| {
            driver.queues[0].add(&[Buffer::Readable(b"A")]);
        },
        |_, split| {
            split
                .unwrap()
                .0
                .write_all_to(file.as_fd(), u64::MAX)
                .unwrap_err();
        },
    );
}

#[test]
fn buffers_outside_memory_are_refused() {
    for (addr, len) in [
        (OUTSIDE, 1),
        (u64::MAX, 2),
        (0x1000, u32::MAX),
        (crate::virtio::testing::MEMORY_SIZE - 1, 2),
    ] {
        let found = error(|driver| {
            driver.queues[0].add(&[Buffer::WritableAt(addr, len)]);
        });
        assert_eq!(found, ChainError::OutsideMemory { addr, len });
    }
}

#[test]
fn readable_after_writable_is_refused() {
    let found = error(|driver| {
        driver.queues[0].add(&[Buffer::Writable(1), Buffer::Readable(b"x")]);
    });
    assert_eq!(found, ChainError::WrongOrder);
}

#[test]
fn loops_and_bad_links_are_refused() {
    let raw = |flags, next| Raw {
        addr: 0x8_0000,
        len: 1,
        flags,
        next,
    };
    let chains: [&[Raw]; 4] = [
        &[raw(NEXT, 0)],
        &[raw(NEXT, 1), raw(NEXT | WRITE, 1)],
        &[raw(NEXT, 999)],
        &[Raw {
            addr: OUTSIDE,
            len: 32,
            flags: INDIRECT,
            next: 0,
        }],
    ];
    for chain in chains {
        let found = error(|driver| {
            driver.queues[0].add_raw(chain);
        });
        assert_eq!(found, ChainError::NoEnd, "{chain:?}");
    }
    let found = error(|driver| driver.queues[0].make_available(500));
    assert_eq!(found, ChainError::NoEnd);
}

#[test]
fn chains_longer_than_any_queue_are_refused() {
    let found = error(|driver| {
        driver.queues[0].add_indirect(&vec![Buffer::ReadableAt(0x8_0000, 1); 1025]);
    });
    assert_eq!(found, ChainError::NoEnd);
}
