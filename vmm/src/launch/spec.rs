//! What a launcher is asked for. The command line makes one of these, and so can others.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use runcvm_protocol::{ByteBuf, Cgroups, ForwardAt, InitMode, Process};

use super::disk::DiskSpec;
use super::net::NetSpec;
use super::share::Cache;
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
    /// What the guest keeps of shared files.
    pub cache: Cache,
    /// The guest may set attributes of files that need `CAP_SYS_ADMIN` on the host.
    pub sys_admin: bool,
    /// A bundle's name or the path of a kernel image; `None`: the default bundle.
    pub kernel: Option<OsString>,
    /// 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Guest memory in bytes, a multiple of [`MIB`] and at least [`MIN_MEMORY`].
    pub memory: u64,
    /// Guest memory is of huge pages that the host has set aside.
    pub huge_pages: bool,
    pub process: Process,
    pub init: InitMode,
    pub hostname: Option<ByteBuf>,
    /// The NIS domain name.
    pub domainname: Option<ByteBuf>,
    /// Kernel parameters of the guest, by dotted name.
    pub sysctls: Vec<(String, String)>,
    pub cgroups: Cgroups,
    /// Services of the host that the guest finds at places of its own.
    pub forwards: Vec<ForwardSpec>,
    /// Mounted in this order.
    pub mounts: Vec<MountSpec>,
    pub disks: Vec<DiskSpec>,
    /// The guest has no IPv6 but on those of `nets` that have addresses or routes of it.
    pub no_ipv6: bool,
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
    /// The filesystem on the disk with this serial number.
    Disk {
        /// [`DiskSpec::id`] of one of the machine's disks.
        id: String,
        filesystem: String,
        /// Absolute path in the guest.
        target: ByteBuf,
        /// Mount options as in `mount -o`.
        options: ByteBuf,
    },
    /// What is mounted at this place of the root filesystem already, on the host.
    Submount {
        /// Absolute path in the guest.
        target: ByteBuf,
        /// It is read-only on the host, and shall look so in the guest.
        read_only: bool,
    },
}

impl MountSpec {
    /// Where it is mounted: an absolute path in the guest.
    pub fn target(&self) -> &[u8] {
        match self {
            Self::Volume { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Disk { target, .. }
            | Self::Submount { target, .. } => target,
        }
    }
}

/// A service of the host that the guest finds at a place of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// Where the guest listens.
    pub at: ForwardAt,
    /// Where its connections go.
    pub to: ForwardTo,
}

/// Where connections of the guest go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardTo {
    /// A Unix stream socket.
    Unix(PathBuf),
    /// TCP at this address.
    Tcp(SocketAddr),
    /// UDP at this address, for a [`ForwardAt::Udp`].
    Udp(SocketAddr),
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
            cache: Cache::Auto,
            sys_admin: false,
            kernel: None,
            cpus: 1,
            memory: 512 * MIB,
            huge_pages: false,
            process: Process {
                args: vec![ByteBuf::from("true")],
                env: Vec::new(),
                cwd: ByteBuf::from("/"),
                ..Process::default()
            },
            init: InitMode::Auto,
            hostname: None,
            domainname: None,
            sysctls: Vec::new(),
            cgroups: Cgroups::Auto,
            forwards: Vec::new(),
            mounts: Vec::new(),
            disks: Vec::new(),
            no_ipv6: false,
            nets: Vec::new(),
            append: String::new(),
            transport: Transport::Pci,
            kernel_log: false,
            account: false,
        }
    }
}
