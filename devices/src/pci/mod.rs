//! A PCI host: one root bus of single-function devices, reached through memory (ECAM).

mod config;
mod ecam;
mod msix;
mod root;
#[cfg(test)]
mod tests;

pub(crate) use config::{ConfigSpace, Identity};
pub use ecam::{ECAM_SIZE, Ecam};
pub(crate) use msix::{CONTROL_WRITABLE as MSIX_CONTROL_WRITABLE, Msix, NO_VECTOR};
pub use root::{AddError, PciRoot, SLOTS};

/// Bytes of configuration space that one function has (PCI Express 3.0, §7.2.2).
pub const CONFIG_SIZE: u16 = 4096;

/// A function's configuration space.
///
/// Called by vCPU threads, several at once; a function guards its own state. `data` is 1, 2
/// or 4 bytes long, little-endian, at any alignment, and never passes [`CONFIG_SIZE`].
pub trait PciFunction: Send + Sync {
    /// Fills `data` with what the guest reads at byte `offset`.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Takes what the guest wrote at byte `offset`.
    fn write_config(&self, offset: u16, data: &[u8]);
}
