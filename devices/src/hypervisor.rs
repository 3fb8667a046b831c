//! What transports and legacy devices need of the hypervisor. The monitor implements these
//! traits on KVM; tests use fakes.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt, as a driver programs it (PCI 3.0, §6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the device would write.
    pub address: u64,
    /// What it would write.
    pub data: u32,
}

/// Global system interrupts that are raised by signalling an eventfd (irqfd).
pub trait IrqRouter: Send + Sync {
    /// Reserves a GSI for message-signalled interrupts and binds an eventfd to it. Until
    /// [`Self::route_msi`] gives it a message, a signal raises nothing.
    fn allocate_msi(&self) -> io::Result<(u32, EventFd)>;

    /// Sets the message that a signal of `gsi` delivers.
    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()>;

    /// Binds an eventfd to an I/O APIC pin; each signal is one edge.
    fn bind_line(&self, gsi: u32) -> io::Result<EventFd>;
}

/// Where a guest write signals an eventfd inside the hypervisor (ioeventfd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KickAddress {
    /// Any write at this guest-physical address.
    Any(u64),
    /// A 32-bit write of this value at this guest-physical address.
    Value(u64, u32),
}

/// Registers queue notifications with the hypervisor, so that they reach the device's thread
/// without an exit to the monitor.
pub trait KickRegistry: Send + Sync {
    /// From now on a guest write at `at` signals `fd`.
    fn register(&self, at: KickAddress, fd: &EventFd) -> io::Result<()>;
}
