//! Virtio devices, their transports, and the few legacy devices of a runcvm machine.
//!
//! A device is a plain struct that knows neither its transport nor KVM. A transport
//! ([`virtio::transport`]) shows it to the guest's driver; the monitor gives the transport
//! its interrupts and notifications through the traits of [`hypervisor`].

pub mod bus;
pub mod hypervisor;
pub mod legacy;
mod output;
pub mod pci;
pub mod virtio;

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

/// The guest's memory, shared by all threads of the monitor.
pub type GuestMemory = Arc<GuestMemoryMmap>;
