//! Messages between the host and the guest of a runcvm machine.
//!
//! [`GuestConfig`] travels once, as a file of the initramfs, before the guest starts. All
//! else travels in [`frame`]s over vsock connections, one connection a process: the guest
//! connects to [`WORKLOAD_PORT`] for the workload; the host connects to [`AGENT_PORT`] for
//! each further command and opens with [`ToGuest::Start`].
//!
//! Strings that a user gives are bytes ([`ByteBuf`]): argv, the environment and paths of
//! Unix are not always UTF-8.

pub mod config;
pub mod frame;
#[cfg(test)]
mod samples;
pub mod session;

pub use config::*;
pub use serde_bytes::ByteBuf;
pub use session::*;

/// The guest's vsock address. The host's is 2, as always (virtio 1.2, §5.10.4).
pub const GUEST_CID: u32 = 3;

/// Where the agent listens in the guest.
pub const AGENT_PORT: u32 = 1024;

/// Where the host listens for the workload's session.
pub const WORKLOAD_PORT: u32 = 1025;

/// Path of the encoded [`GuestConfig`] in the initramfs.
pub const CONFIG_PATH: &str = "/runcvm/config";

/// Path in the initramfs of the list of kernel modules, one path a line, in the order to
/// load them.
pub const MODULES_PATH: &str = "/runcvm/modules";

/// Port of a byte-wide I/O register that marks moments of the boot; values are
/// [`BootMark`]s.
pub const BOOT_MARK_PORT: u16 = 0x510;

/// A moment of the boot that the guest reports by writing it to [`BOOT_MARK_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BootMark {
    /// The first instruction of PID 1 ran.
    Init = 1,
    /// The command is about to be executed.
    Command = 2,
}
