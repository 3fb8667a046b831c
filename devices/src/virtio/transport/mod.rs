//! The two transports that show a virtio device to the guest's driver: [`pci`] and [`mmio`].
//! Both translate register accesses into calls of one state machine, `state`.

pub mod mmio;
pub mod pci;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::bus::BusDevice;

/// A virtio device with its transport, as the machine holds it.
pub trait VirtioTransport: BusDevice {
    /// Resets the device at the end of the machine: no thread or backend touches guest memory
    /// once this returns. No vCPU may run any more, or the driver could start it again.
    fn shutdown(&self);
}
