use std::sync::{Arc, Mutex};

use super::{AddError, ConfigPorts, Ecam, PciFunction, PciRoot};
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

fn ports_at(root: Arc<PciRoot>, address: u32) -> ConfigPorts {
    let ports = ConfigPorts::new(root);
    ports.write(0, &address.to_le_bytes());
    ports
}

const ENABLE: u32 = 1 << 31;

#[test]
fn the_ports_reach_the_first_256_bytes() {
    let (root, function) = bus();
    let ports = ports_at(root, ENABLE | 3 << 11 | 0x40);
    assert_eq!(read(&ports, 0), (ENABLE | 3 << 11 | 0x40).to_le_bytes());
    assert_eq!(read(&ports, 4), [0x40, 0x41, 0x42, 0x43]);
    assert_eq!(read(&ports, 6), [0x42, 0x43]);
    assert_eq!(read(&ports, 7), [0x43]);
    ports.write(5, &[7]);
    assert_eq!(*function.0.lock().unwrap(), [(0x41, vec![7])]);
}

#[test]
fn the_ports_are_empty_elsewhere() {
    let (root, function) = bus();
    for address in [
        3 << 11,
        ENABLE | 4 << 11,
        ENABLE | 3 << 11 | 1 << 8,
        ENABLE | 1 << 16 | 3 << 11,
    ] {
        let ports = ports_at(root.clone(), address);
        assert_eq!(read(&ports, 4), [0xff; 4], "at {address:#x}");
        ports.write(4, &[0; 4]);
    }
    assert!(function.0.lock().unwrap().is_empty());
}

#[test]
fn the_address_port_is_written_whole() {
    let (root, _) = bus();
    let address = ENABLE | 3 << 11;
    let ports = ports_at(root, address);
    // As systems do that look for the other, long gone mechanism; and the reset register.
    ports.write(3, &[1]);
    ports.write(1, &[6]);
    ports.write(0, &[0, 0]);
    assert_eq!(read(&ports, 0), address.to_le_bytes());
    assert_eq!(read(&ports, 1), [0xff]);
}
