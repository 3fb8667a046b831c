//! The two ways to configuration space.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::PciRoot;
use super::root::ConfigAddress;
use crate::bus::BusDevice;

/// Bytes of address space that the ECAM window of one bus takes.
pub const ECAM_SIZE: u64 = 1 << 20;

/// The first port of the configuration mechanism.
pub const PORTS_BASE: u64 = 0xcf8;

/// The number of its ports: four for the address, four for the data.
pub const PORTS_LEN: u64 = 8;

/// Configuration space as memory, for bus 0 (PCI Express 3.0, §7.2.2).
#[derive(Debug)]
pub struct Ecam(Arc<PciRoot>);

impl Ecam {
    /// The window onto `root`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self(root)
    }

    fn address(offset: u64) -> ConfigAddress {
        let [low, mid, high, ..] = offset.to_le_bytes();
        ConfigAddress {
            bus: high >> 4,
            slot: (high & 0xf) << 1 | mid >> 7,
            function: (mid >> 4) & 7,
            offset: u16::from_le_bytes([low, mid & 0xf]),
        }
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, part) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
            self.0.read(Self::address(at), part);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, part) in (offset..).step_by(4).zip(data.chunks(4)) {
            self.0.write(Self::address(at), part);
        }
    }
}

/// Configuration space through an address port and a data port (PCI 3.0, §3.2.2.3.2).
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: AtomicU32,
}

const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// The ports of `root`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
        }
    }

    /// The byte that an access to `offset` of the ports means. None: the address port, or
    /// the mechanism is disabled.
    fn target(&self, offset: u64) -> Option<ConfigAddress> {
        let lane = u8::try_from(offset.checked_sub(4)?).ok()?;
        let address = self.address.load(Ordering::Relaxed);
        if address & ENABLE == 0 || lane > 3 {
            return None;
        }
        let [register, devfn, bus, _] = address.to_le_bytes();
        Some(ConfigAddress {
            bus,
            slot: devfn >> 3,
            function: devfn & 7,
            offset: u16::from(register & !3 | lane),
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *data = self.address.load(Ordering::Relaxed).to_le_bytes();
        } else if let Some(at) = self.target(offset) {
            self.root.read(at, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(&data)) = (offset, <&[u8; 4]>::try_from(data)) {
            let address = u32::from_le_bytes(data);
            self.address.store(address, Ordering::Relaxed);
        } else if let Some(at) = self.target(offset) {
            self.root.write(at, data);
        }
    }
}
