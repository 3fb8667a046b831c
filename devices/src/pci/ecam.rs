//! Configuration space as memory: the enhanced configuration access mechanism.
//!
//! It is the only way there is. Linux prefers the older ports at 0xcf8 for the first 256 bytes
//! where it finds them, and takes two exits for each access then.

use std::sync::Arc;

use super::PciRoot;
use super::root::ConfigAddress;
use crate::bus::BusDevice;

/// Bytes of address space that the ECAM window of one bus takes.
pub const ECAM_SIZE: u64 = 1 << 20;

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
