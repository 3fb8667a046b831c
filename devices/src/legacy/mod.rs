//! The few devices that are not virtio: at fixed ports, each an exit per access.

pub mod boot_mark;
pub mod power;
pub mod serial;
