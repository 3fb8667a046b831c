//! Whatever a guest writes: no panic, no device activated with a queue that is invalid (the
//! recording device insists), and a status that makes sense.

use proptest::prelude::*;
use proptest::sample::select;

use super::driver::{Machine, read};
use crate::bus::BusDevice;
use crate::pci::{ECAM_SIZE, Ecam, PciFunction, PciRoot};
use crate::virtio::transport::mmio::WINDOW_SIZE;
use crate::virtio::transport::pci::BAR_SIZE;
use crate::virtio::transport::testing::MEMORY_SIZE;

/// An access of `len` bytes; a read if there is no value.
#[derive(Clone, Debug)]
struct Access {
    offset: u64,
    len: usize,
    value: Option<u64>,
}

impl Access {
    fn run(&self, device: &dyn BusDevice, size: u64) {
        let offset = self.offset.min(size - self.len as u64);
        match self.value {
            Some(value) => device.write(offset, &value.to_le_bytes()[..self.len]),
            None => device.read(offset, &mut [0; 8][..self.len]),
        }
    }
}

/// Accesses below `size`: what a driver could do, in any order and with any of its values, and
/// what it could not.
fn access(size: u64, registers: &[Register]) -> impl Strategy<Value = Access> + use<> {
    let sensible = select(registers.to_vec()).prop_flat_map(|(offset, len, values)| {
        select(values).prop_map(move |value| Access {
            offset,
            len,
            value: Some(value),
        })
    });
    let known: Vec<_> = registers.iter().map(|(offset, ..)| *offset).collect();
    let offset = prop_oneof![2 => select(known), 1 => 0..size];
    let value = prop_oneof![0..0x200u64, any::<u64>(), Just(u64::MAX)];
    let wild = (offset, select(vec![1, 2, 4, 8]), prop::option::of(value));
    let wild = wild.prop_map(|(offset, len, value)| Access { offset, len, value });
    prop_oneof![4 => sensible, 1 => wild]
}

/// A register: offset, width in bytes, and values that are worth to be written.
type Register = (u64, usize, &'static [u64]);

const STATUS: &[u64] = &[0, 1, 3, 0xb, 0xf, 0xf, 0xf, 0x4f, 0x8f];
const QUEUE: &[u64] = &[0, 1, 2, 3];
const SIZE: &[u64] = &[0, 1, 2, 3, 64, 256, 512, 0xffff];
const FLAG: &[u64] = &[0, 1, 1, 1];
const LOW: &[u64] = &[
    0,
    0x1000,
    0x1001,
    MEMORY_SIZE - 16,
    MEMORY_SIZE,
    0xffff_fff0,
];
const HIGH: &[u64] = &[0, 0, 0, 1, 0xffff_ffff];
const PAGE: &[u64] = &[0, 1, 2];
const FEATURES: &[u64] = &[0, 1, 2, 3, 1 << 29, 0xffff_ffff];

const BAR: &[Register] = &[
    (0x00, 4, PAGE),
    (0x08, 4, PAGE),
    (0x0c, 4, FEATURES),
    (0x10, 2, QUEUE),
    (0x14, 1, STATUS),
    (0x14, 1, STATUS),
    (0x16, 2, QUEUE),
    (0x18, 2, SIZE),
    (0x1a, 2, QUEUE),
    (0x1c, 2, FLAG),
    (0x1c, 2, FLAG),
    (0x20, 4, LOW),
    (0x24, 4, HIGH),
    (0x28, 4, LOW),
    (0x2c, 4, HIGH),
    (0x30, 4, LOW),
    (0x34, 4, HIGH),
    (0x1000, 1, FLAG),
    (0x2000, 4, LOW),
    (0x3000, 2, QUEUE),
    (0x3004, 4, QUEUE),
    (0x4000, 4, LOW),
    (0x4008, 8, LOW),
    (0x400c, 4, FLAG),
    (0x403c, 4, FLAG),
    (0x5000, 8, LOW),
];

const WINDOW: &[Register] = &[
    (0x14, 4, PAGE),
    (0x20, 4, FEATURES),
    (0x24, 4, PAGE),
    (0x30, 4, QUEUE),
    (0x38, 4, SIZE),
    (0x44, 4, FLAG),
    (0x44, 4, FLAG),
    (0x50, 4, QUEUE),
    (0x64, 4, FLAG),
    (0x70, 4, STATUS),
    (0x70, 4, STATUS),
    (0x80, 4, LOW),
    (0x84, 4, HIGH),
    (0x90, 4, LOW),
    (0x94, 4, HIGH),
    (0xa0, 4, LOW),
    (0xa4, 4, HIGH),
    (0x104, 4, LOW),
];

/// Among them the message control of MSI-X and the access capability, which is aimed at the
/// structures in the BAR.
const CONFIG: &[Register] = &[
    (0x04, 2, LOW),
    (0x10, 4, HIGH),
    (0x14, 4, HIGH),
    (0x42, 2, &[0, 0x8000, 0xc000, 0xffff]),
    (0x94, 1, FLAG),
    (
        0x98,
        4,
        &[
            0x14,
            0x16,
            0x1c,
            0x20,
            0x28,
            0x3000,
            0x400c,
            0x7fff,
            0x8000,
            0xffff_ffff,
        ],
    ),
    (0x9c, 4, &[0, 1, 2, 4, 8, 0xffff_ffff]),
    (0xa0, 1, STATUS),
    (0xa0, 2, QUEUE),
    (0xa0, 4, LOW),
];

/// How far a good driver comes before it loses its mind.
fn prepare(machine: &Machine, progress: u8) {
    match progress {
        0 => {}
        1 => machine.negotiate(),
        2 => {
            machine.negotiate();
            machine.set_up_queue(1);
        }
        _ => machine.start(),
    }
}

/// Takes a step and holds the status against the rules of §2.1.1.
fn step(machine: &Machine, run: impl FnOnce()) {
    let before = machine.driver.status();
    let was_active = machine.record().active.is_some();
    run();
    let after = machine.driver.status();
    let reached = after & 0xf;
    assert!([0, 1, 3, 0xb, 0xf].contains(&reached), "status {after:#x}");
    assert_eq!(after & 0x30, 0, "status {after:#x}");
    assert!(
        after == 0 || after & before == before,
        "{before:#x} -> {after:#x}"
    );
    let active = machine.record().active.is_some();
    assert_eq!(active, reached == 0xf && after & 0x40 == 0);
    assert!(!active || was_active || before & 0xf != 0xf);
}

proptest! {
    #[test]
    fn any_access_to_the_bar(
        progress in 0..4u8,
        accesses in prop::collection::vec(access(BAR_SIZE, BAR), 1..80),
    ) {
        let (machine, pci) = Machine::pci();
        prepare(&machine, progress);
        for access in accesses {
            step(&machine, || access.run(&*pci, BAR_SIZE));
        }
    }

    #[test]
    fn any_access_to_the_window(
        progress in 0..4u8,
        accesses in prop::collection::vec(access(WINDOW_SIZE, WINDOW), 1..80),
    ) {
        let machine = Machine::mmio();
        prepare(&machine, progress);
        for access in accesses {
            step(&machine, || access.run(&*machine.transport, WINDOW_SIZE));
        }
    }

    /// Through ECAM, and through the access capability to the BAR and its status.
    #[test]
    fn any_access_to_configuration_space(
        progress in 0..4u8,
        accesses in prop::collection::vec(access(0x1000, CONFIG), 1..80),
        wild in prop::collection::vec(access(ECAM_SIZE, &[(0xffe, 8, LOW), (0x8ffd, 4, LOW)]), 0..20),
    ) {
        let (machine, pci) = Machine::pci();
        prepare(&machine, progress);
        let root = std::sync::Arc::new(PciRoot::new());
        root.add(1, pci.clone()).unwrap();
        let ecam = Ecam::new(root);
        for access in accesses {
            step(&machine, || {
                let offset = access.offset.min(0x1000 - access.len as u64);
                Access { offset: 1 << 15 | offset, ..access }.run(&ecam, ECAM_SIZE);
            });
            let [vendor, identity] = [0u8, 2].map(|at| {
                let mut data = [0; 2];
                pci.read_config(at.into(), &mut data);
                u16::from_le_bytes(data)
            });
            prop_assert_eq!((vendor, identity), (0x1af4, 0x1041));
            let low = u32::from_le_bytes(read(&ecam, 1 << 15 | 0x10));
            prop_assert!([0xd000_0004, 0xffff_8004].contains(&low), "BAR {:#x}", low);
        }
        for access in wild {
            step(&machine, || access.run(&ecam, ECAM_SIZE));
        }
    }
}
