//! What a driver may expect of a device, on both transports.

mod cases;
mod driver;
mod properties;

pub(crate) use driver::{Machine, capabilities, msix_control, read, read_32};
