use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::virtio::testing::{Buffer, Driver};

mod block_device;
mod hostile;

const SECTORS: usize = 64;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A disk image whose byte `i` is `i / 512`.
fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..SECTORS * 512)
        .map(|i| u8::try_from(i / 512).unwrap())
        .collect();
    file.write_all(&content).unwrap();
    file
}

fn content(file: &File, sector: u64, sectors: usize) -> Vec<u8> {
    let mut data = vec![0; sectors * 512];
    file.read_exact_at(&mut data, sector * 512).unwrap();
    data
}

fn spec(file: &File) -> BlockSpec {
    BlockSpec {
        file: file.try_clone().unwrap(),
        read_only: false,
        id: "data".into(),
        queues: 1,
    }
}

struct Started {
    device: Block,
    driver: Driver,
    file: File,
}

fn start_with(change: impl FnOnce(&mut BlockSpec), features: impl FnOnce(u64) -> u64) -> Started {
    Started::new(image(), change, features)
}

fn start() -> Started {
    start_with(|_| {}, |features| features)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut range = sector.to_le_bytes().to_vec();
    range.extend(sectors.to_le_bytes());
    range.extend(flags.to_le_bytes());
    range
}

impl Started {
    fn new(
        file: File,
        change: impl FnOnce(&mut BlockSpec),
        features: impl FnOnce(u64) -> u64,
    ) -> Self {
        let mut spec = spec(&file);
        change(&mut spec);
        let mut device = Block::new(spec).unwrap();
        let driver = Driver::new(device.queue_max_sizes(), features(device.features()));
        device.activate(driver.activation()).unwrap();
        Self {
            device,
            driver,
            file,
        }
    }

    /// A request of `readable` bytes, with room for `len` bytes of data: its status, the
    /// data, and how many bytes were written.
    fn request(&mut self, readable: &[u8], len: u32) -> (u8, Vec<u8>, u32) {
        let (sent, written) = self.driver.queues[0].request(&[
            Buffer::Readable(readable),
            Buffer::Writable(len),
            Buffer::Writable(1),
        ]);
        let data = self.driver.read(sent.buffers[1].0, len as usize);
        let status = self.driver.read(sent.buffers[2].0, 1)[0];
        (status, data, written)
    }

    fn status(&mut self, readable: &[u8]) -> u8 {
        self.request(readable, 0).0
    }
}

#[test]
fn sectors_are_read() {
    let mut disk = start();
    let (status, data, written) = disk.request(&header(0, 3), 1024);
    assert_eq!((status, written), (OK, 1025));
    assert_eq!(data, content(&disk.file, 3, 2));
    let (status, data, _) = disk.request(&header(0, SECTORS as u64 - 1), 512);
    assert_eq!((status, data[0]), (OK, 63));
}

#[test]
fn sectors_are_written_and_nothing_else() {
    let mut disk = start();
    let mut request = header(1, 5);
    request.extend([0xab; 512]);
    assert_eq!(disk.status(&request), OK);
    let around = content(&disk.file, 4, 3);
    assert_eq!(around[..512], [4; 512]);
    assert_eq!(around[512..1024], [0xab; 512]);
    assert_eq!(around[1024..], [6; 512]);
}

#[test]
fn requests_may_be_split_anywhere_and_be_indirect() {
    let mut disk = start();
    let header = header(0, 9);
    let buffers = [
        Buffer::Readable(&header[..5]),
        Buffer::Readable(&header[5..]),
        Buffer::Writable(500),
        Buffer::Writable(0),
        Buffer::Writable(13),
    ];
    let queue = &mut disk.driver.queues[0];
    for indirect in [false, true] {
        let sent = if indirect {
            queue.add_indirect(&buffers)
        } else {
            queue.add(&buffers)
        };
        queue.kick();
        assert_eq!(queue.wait_used(), (sent.head, 513));
    }
    let sent = queue.add(&buffers);
    queue.kick();
    queue.wait_used();
    let (first, last) = (sent.buffers[2].0, sent.buffers[4].0);
    assert_eq!(disk.driver.read(first, 500), [9; 500]);
    assert_eq!(disk.driver.read(last, 13)[..12], [9; 12]);
    assert_eq!(disk.driver.read(last + 12, 1), [OK]);
}

#[test]
fn flush_and_id_are_answered() {
    let mut disk = start();
    assert_eq!(disk.status(&header(4, 0)), OK);
    let (status, data, written) = disk.request(&header(8, 0), 20);
    assert_eq!((status, written), (OK, 21));
    assert_eq!(&data, b"data\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(disk.request(&header(8, 0), 19).0, IO_ERROR);
}

#[test]
fn long_names_are_cut() {
    let mut disk = start_with(|spec| spec.id = "0123456789abcdefghijkl".into(), |f| f);
    assert_eq!(disk.request(&header(8, 0), 20).1, b"0123456789abcdefghij");
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zeroes() {
    let mut disk = start();
    // Whole blocks of any file system, so that space comes back.
    let file_len = 8 << 20;
    disk.file.set_len(file_len).unwrap();
    disk.device.reset();
    let data = vec![7; usize::try_from(file_len).unwrap()];
    disk.file.write_all_at(&data, 0).unwrap();
    disk.device = Block::new(spec(&disk.file)).unwrap();
    disk.driver.queues[0].restart();
    disk.device.activate(disk.driver.activation()).unwrap();

    let mut discard = header(11, 0);
    discard.extend(range(0, 2048, 0));
    discard.extend(range(4096, 2048, 0));
    if disk.device.features() & (1 << VIRTIO_BLK_F_DISCARD) == 0 {
        eprintln!("skipped: the file system has no holes");
        assert_eq!(disk.status(&discard), UNSUPPORTED);
        return;
    }
    let before = disk.file.metadata().unwrap().blocks();
    assert_eq!(disk.status(&discard), OK);
    assert!(disk.file.metadata().unwrap().blocks() < before);
    assert_eq!(content(&disk.file, 0, 2048), vec![0; 1 << 20]);
    assert_eq!(content(&disk.file, 2048, 1)[0], 7);
    assert_eq!(content(&disk.file, 4096, 2048), vec![0; 1 << 20]);

    for flags in [0, 1] {
        let sector = 8000 + u64::from(flags);
        let mut zeroes = header(13, 0);
        zeroes.extend(range(sector, 1, flags));
        assert_eq!(disk.status(&zeroes), OK);
        assert_eq!(content(&disk.file, sector, 1), [0; 512]);
    }
    assert_eq!(content(&disk.file, 7999, 1)[0], 7);
    assert_eq!(content(&disk.file, 8002, 1)[0], 7);
    assert_eq!(disk.file.metadata().unwrap().len(), file_len);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut disk = start_with(|spec| spec.read_only = true, |f| f);
    assert!(disk.device.features() & (1 << VIRTIO_BLK_F_RO) != 0);
    let erasers = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    assert_eq!(disk.device.features() & erasers, 0);
    let mut write = header(1, 1);
    write.extend([9; 512]);
    assert_eq!(disk.status(&write), IO_ERROR);
    for kind in [11, 13] {
        let mut erase = header(kind, 0);
        erase.extend(range(1, 1, 0));
        assert_eq!(disk.status(&erase), IO_ERROR);
    }
    assert_eq!(content(&disk.file, 1, 1), [1; 512]);
    assert_eq!(disk.request(&header(0, 1), 512).1, [1; 512]);
    assert_eq!(disk.status(&header(4, 0)), OK);
}

#[test]
fn every_queue_is_served_by_itself() {
    let mut disk = start_with(|spec| spec.queues = 3, |f| f);
    assert!(disk.device.features() & (1 << VIRTIO_BLK_F_MQ) != 0);
    let header = header(0, 7);
    for index in [2, 0, 1] {
        let (sent, len) = disk.driver.queues[index].request(&[
            Buffer::Readable(&header),
            Buffer::Writable(512),
            Buffer::Writable(1),
        ]);
        assert_eq!(len, 513);
        assert_eq!(disk.driver.read(sent.buffers[1].0, 512), [7; 512]);
        let index = u16::try_from(index).unwrap();
        disk.driver
            .interrupt
            .wait("the queue's interrupt", |raised| {
                raised.queues.contains_key(&index)
            });
    }
}

#[test]
fn a_driver_may_use_fewer_queues_and_features() {
    let file = image();
    let mut device = Block::new(BlockSpec {
        queues: 4,
        ..spec(&file)
    })
    .unwrap();
    let mut driver = Driver::new(&[16], 0);
    device.activate(driver.activation()).unwrap();
    let mut write = header(1, 2);
    write.extend([0x77; 512]);
    let (sent, len) = driver.queues[0].request(&[Buffer::Readable(&write), Buffer::Writable(1)]);
    assert_eq!((len, driver.read(sent.buffers[1].0, 1)[0]), (1, OK));
    assert_eq!(content(&file, 2, 1), [0x77; 512]);
}

#[test]
fn a_reset_device_starts_again() {
    let mut disk = start();
    for _ in 0..3 {
        assert_eq!(disk.request(&header(0, 1), 512).0, OK);
        disk.device.reset();
        let queue = &mut disk.driver.queues[0];
        queue.add(&[Buffer::Readable(&header(0, 1)), Buffer::Writable(513)]);
        queue.kick();
        assert_eq!(queue.try_used(), None);
        queue.restart();
        disk.device.activate(disk.driver.activation()).unwrap();
    }
    disk.device.reset();
    disk.device.reset();
}

#[test]
fn the_configuration_space_describes_the_disk() {
    let file = image();
    let device = Block::new(BlockSpec {
        queues: 2,
        ..spec(&file)
    })
    .unwrap();
    let read = |offset, len| {
        let mut data = [0xff; 8];
        device.read_config(offset, &mut data[..len]);
        data[len..].fill(0);
        u64::from_le_bytes(data)
    };
    assert_eq!(read(0, 8), SECTORS as u64);
    assert_eq!(read(12, 4), 254);
    assert_eq!(read(20, 4), 512);
    assert_eq!(read(34, 2), 2);
    assert_eq!(read(36, 4), 1 << 22);
    assert_eq!(read(56, 1), 1);
    assert_eq!(read(58, 8), 0);
    assert_eq!(read(60, 4), 0);
    assert_eq!(read(u64::MAX, 4), 0);
}

#[test]
fn files_that_cannot_be_disks_are_refused() {
    let sized = |len| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    };
    let message = |file: &File, change: fn(&mut BlockSpec)| {
        let mut spec = spec(file);
        change(&mut spec);
        Block::new(spec).unwrap_err().to_string()
    };
    let cases = [
        (
            sized(0),
            "Disk data is empty, but must have at least 512 bytes",
        ),
        (
            sized(1000),
            "Disk data has 1000 bytes, which is not a multiple of 512",
        ),
        (
            File::open("/").unwrap(),
            "Disk data is neither a regular file nor a block device",
        ),
        (
            File::open("/dev/zero").unwrap(),
            "Disk data is neither a regular file nor a block device",
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(message(&file, |_| {}), expected);
    }
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(512).unwrap();
    assert_eq!(
        message(&File::open(named.path()).unwrap(), |_| {}),
        "Disk data is not read-only, but its file was not opened for writing"
    );
    Block::new(BlockSpec {
        read_only: true,
        ..spec(&File::open(named.path()).unwrap())
    })
    .unwrap();
    assert_eq!(
        message(named.as_file(), |spec| spec.queues = 0),
        "Disk data has 0 queues, but needs at least 1"
    );
}
