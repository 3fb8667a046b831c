use std::sync::{Arc, Mutex};

use super::{AddError, Ecam, PciFunction, PciRoot};
use crate::bus::BusDevice;

/// Reads its own offsets, and remembers writes.
#[derive(Default)]
struct Recorder(Mutex<Vec<(u16, Vec<u8>)>>);

impl PciFunction for Recorder {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4));
        for (at, byte) in (offset..).zip(data) {
            *byte = at.to_le_bytes()[0];
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4));
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn bus() -> (Arc<PciRoot>, Arc<Recorder>) {
    let root = Arc::new(PciRoot::new());
    let function = Arc::new(Recorder::default());
    root.add(3, function.clone()).unwrap();
    (root, function)
}

fn read<const N: usize>(device: &dyn BusDevice, offset: u64) -> [u8; N] {
    let mut data = [0xa5; N];
    device.read(offset, &mut data);
    data
}

const SLOT_3: u64 = 3 << 15;

#[test]
fn a_slot_takes_one_function() {
    let (root, function) = bus();
    root.add(31, function.clone()).unwrap();
    assert_eq!(root.add(0, function.clone()), Err(AddError::Taken(0)));
    assert_eq!(root.add(3, function.clone()), Err(AddError::Taken(3)));
    assert_eq!(root.add(32, function), Err(AddError::NoSlot(32)));
    assert_eq!(format!("{root:?}"), "{0, 3, 31}");
}

#[test]
fn a_host_bridge_is_in_slot_0() {
    let (root, _) = bus();
    let ecam = Ecam::new(root);
    let [_, subclass, class] = read(&ecam, 9);
    assert_eq!((class, subclass), (6, 0));
    let before: [u8; 8] = read(&ecam, 0x10);
    ecam.write(0x10, &[0xff; 8]);
    assert_eq!(read(&ecam, 0x10), before);
}

#[test]
fn the_window_reaches_every_byte() {
    let (root, function) = bus();
    let ecam = Ecam::new(root);
    assert_eq!(read(&ecam, SLOT_3), [0]);
    assert_eq!(read(&ecam, SLOT_3 + 0x104), [4, 5, 6, 7]);
    assert_eq!(read(&ecam, SLOT_3 + 0x21), [0x21, 0x22]);
    assert_eq!(
        read(&ecam, SLOT_3 + 0x20),
        [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27]
    );
    ecam.write(SLOT_3 + 0xffe, &[1, 2]);
    ecam.write(SLOT_3 + 8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        *function.0.lock().unwrap(),
        [
            (0xffe, vec![1, 2]),
            (8, vec![1, 2, 3, 4]),
            (12, vec![5, 6, 7, 8])
        ]
    );
}

#[test]
fn the_window_is_empty_elsewhere() {
    let (root, function) = bus();
    let ecam = Ecam::new(root);
    let elsewhere = [
        4 << 15,
        SLOT_3 + (1 << 12),
        SLOT_3 + (7 << 12),
        (1 << 20) + SLOT_3,
        (255 << 20) + SLOT_3,
        // Past the end of the function's space:
        SLOT_3 + 0xffd,
    ];
    for offset in elsewhere {
        assert_eq!(read(&ecam, offset), [0xff; 4], "at {offset:#x}");
        ecam.write(offset, &[0; 4]);
    }
    assert!(function.0.lock().unwrap().is_empty());
}
