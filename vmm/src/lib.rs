//! The runcvm microVM monitor.
//!
//! Two processes make a machine. The *launcher* ([`launch`]) prepares everything that needs
//! privileges or paths (virtiofsd, taps, disks, sockets), starts the *machine* process with
//! open file descriptors and a [`spec::MachineSpec`], relays the user's streams, and cleans
//! up when either ends. The machine process ([`machine`]) drives KVM and the devices, and
//! speaks [`control`] with the launcher.

pub mod acpi;
pub mod boot;
pub mod cli;
pub mod control;
pub mod cpu;
pub mod kvm;
pub mod launch;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod smaps;
pub mod spec;
