//! Whatever a guest writes: no panic, no device activated with a queue that is invalid (the
//! recording device insists), and a status that makes sense.

use proptest::prelude::*;
use proptest::sample::select;

use super::driver::{Machine, read};
use crate::bus::BusDevice;
use crate::pci::{ConfigPorts, ECAM_SIZE, Ecam, PORTS_LEN, PciFunction, PciRoot};
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

/// Accesses below `size`, most of them to `registers`.
fn access(size: u64, registers: Vec<u64>) -> impl Strategy<Value = Access> {
    let offset = prop_oneof![8 => select(registers), 1 => 0..size];
    let len = prop_oneof![1 => Just(1), 1 => Just(2), 6 => Just(4), 1 => Just(8)];
    let value = prop_oneof![
        4 => select(vec![0, 1, 3, 0xb, 0xf, 0x8b, 0xff, 0xffff, u64::MAX]),
        4 => select(vec![0x1000, 0x3000, MEMORY_SIZE - 0x400, MEMORY_SIZE - 1, 1 << 28, 1 << 63]),
        2 => 0..0x200u64,
        1 => any::<u64>(),
    ];
    (offset, len, prop::option::weighted(0.85, value)).prop_map(|(offset, len, value)| Access {
        offset,
        len,
        value,
    })
}

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

fn bar_registers() -> Vec<u64> {
    let common = (0..0x38).step_by(4).chain([0x12, 0x14, 0x16, 0x1a, 0x1e]);
    // The status more often than others.
    let often = [0x14, 0x14, 0x14, 0x16, 0x1c];
    let others = [0x1000, 0x2000, 0x3000, 0x3004, 0x3ffc, 0x5000];
    let table = (0x4000..0x4050).step_by(4);
    common.chain(often).chain(others).chain(table).collect()
}

proptest! {
    #[test]
    fn any_access_to_the_bar(
        progress in 0..4u8,
        accesses in prop::collection::vec(access(BAR_SIZE, bar_registers()), 1..80),
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
        accesses in prop::collection::vec(
            access(WINDOW_SIZE, (0..0x110).step_by(4).chain([0x70; 8]).collect()),
            1..80,
        ),
    ) {
        let machine = Machine::mmio();
        prepare(&machine, progress);
        for access in accesses {
            step(&machine, || access.run(&*machine.transport, WINDOW_SIZE));
        }
    }

    /// Through both ways, and through the access capability to the BAR and its status.
    #[test]
    fn any_access_to_configuration_space(
        progress in 0..4u8,
        accesses in prop::collection::vec(
            (any::<bool>(), access(0x1000, (0..0x100).step_by(4).collect())),
            1..80,
        ),
        wild in prop::collection::vec(access(ECAM_SIZE, (0xff8..0x1008).collect()), 0..20),
    ) {
        let (machine, pci) = Machine::pci();
        prepare(&machine, progress);
        let root = std::sync::Arc::new(PciRoot::new());
        root.add(1, pci.clone()).unwrap();
        let ecam = Ecam::new(root.clone());
        let ports = ConfigPorts::new(root);
        for (by_ports, access) in accesses {
            step(&machine, || {
                if by_ports {
                    let address = u32::try_from(access.offset & 0xfc).unwrap();
                    ports.write(0, &(1 << 31 | 1 << 11 | address).to_le_bytes());
                    let lane = 4 + access.offset % 4;
                    Access { offset: lane, len: access.len.min(4), ..access }.run(&ports, PORTS_LEN);
                } else {
                    let offset = access.offset.min(0x1000 - access.len as u64);
                    Access { offset: 1 << 15 | offset, ..access }.run(&ecam, ECAM_SIZE);
                }
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
