//! What a launcher is asked for. The command line makes one of these, and so can others.

use std::ffi::OsString;
use std::path::PathBuf;

use runcvm_protocol::{ByteBuf, InitMode, Process};

use super::disk::DiskSpec;
use super::net::NetSpec;
use crate::spec::Transport;

/// Bytes of a MiB, the unit of guest memory.
pub const MIB: u64 = 1 << 20;

/// Least guest memory in bytes: less does not hold a distribution's kernel and its initramfs.
pub const MIN_MEMORY: u64 = 64 * MIB;

/// Greatest number of vCPUs.
pub const MAX_CPUS: u8 = 64;

/// A machine and what runs in it.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The machine's name; checked by [`super::rundir::check_name`].
    pub name: String,
    /// Directory that becomes the root filesystem.
    pub rootfs: PathBuf,
    pub root_read_only: bool,
    /// A bundle's name or the path of a kernel image; `None`: the default bundle.
    pub kernel: Option<OsString>,
    /// 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Guest memory in bytes, a multiple of [`MIB`] and at least [`MIN_MEMORY`].
    pub memory: u64,
    pub process: Process,
    pub init: InitMode,
    pub hostname: Option<ByteBuf>,
    /// Mounted in this order.
    pub mounts: Vec<MountSpec>,
    pub disks: Vec<DiskSpec>,
    pub nets: Vec<NetSpec>,
    /// Appended to the kernel's command line.
    pub append: String,
    pub transport: Transport,
    /// The kernel's log goes to our stderr.
    pub kernel_log: bool,
    /// Ask the machine at the end what it used, for [`super::Outcome::status`].
    pub account: bool,
}

/// A filesystem over the root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    /// A directory or file of the host.
    Volume {
        source: PathBuf,
        /// Absolute path in the guest.
        target: ByteBuf,
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Absolute path in the guest.
        target: ByteBuf,
        /// Mount options as in `mount -o`.
        options: ByteBuf,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// The least machine.
    pub(crate) fn minimal(rootfs: &Path) -> LaunchSpec {
        LaunchSpec {
            name: "test".into(),
            rootfs: rootfs.into(),
            root_read_only: false,
            kernel: None,
            cpus: 1,
            memory: 512 * MIB,
            process: Process {
                args: vec![ByteBuf::from("true")],
                env: Vec::new(),
                cwd: ByteBuf::from("/"),
                user: ByteBuf::new(),
                terminal: None,
                stdin: false,
            },
            init: InitMode::Auto,
            hostname: None,
            mounts: Vec::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            append: String::new(),
            transport: Transport::Pci,
            kernel_log: false,
            account: false,
        }
    }
}
