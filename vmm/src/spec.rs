//! What the machine process is told to build. The launcher writes it as JSON into a pipe
//! that the machine process inherits; file descriptors in it are inherited too.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A whole machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The machine's name, for messages.
    pub name: String,
    /// Number of vCPUs, 1 to 64.
    pub cpus: u8,
    /// Guest memory in bytes, a multiple of 4096. The kernel's code comes on top.
    pub memory: u64,
    /// Guest memory is of huge pages that the host has set aside.
    pub huge_pages: bool,
    /// An uncompressed ELF vmlinux.
    pub kernel: PathBuf,
    /// Parts of the initramfs, in this order.
    pub initramfs: Vec<InitramfsPart>,
    /// Appended to the kernel command line that the machine needs by itself.
    pub append: String,
    /// The kernel logs everything to the serial port, not only what is urgent.
    pub verbose_kernel: bool,
    /// How virtio devices are shown to the guest.
    pub transport: Transport,
    /// Devices, in order of their PCI slots or MMIO windows.
    pub devices: Vec<DeviceSpec>,
    /// Where the serial port writes, besides the ring buffer of the last lines that
    /// [`crate::control::Event::Ended`] carries. None: nowhere.
    pub serial: Option<RawFd>,
    /// A directory that is all that the process sees once it is built, as an unprivileged user;
    /// [`DeviceSpec::Vsock`]'s prefix is a path in it. None: it stays who and where it is.
    pub root: Option<PathBuf>,
    /// A connected Unix stream socket to the launcher: JSON lines of [`crate::control`].
    pub control: RawFd,
}

/// A part of the initramfs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum InitramfsPart {
    /// A file that is a cpio archive (newc), compressed or not.
    Archive(PathBuf),
    /// One file for the guest, made into an archive on the way.
    File {
        /// Absolute path in the initramfs.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Its content.
        content: Content,
    },
}

/// The content of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Content {
    /// That of a file of the host.
    Path(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// How virtio devices are shown to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// virtio-pci with MSI-X.
    #[default]
    Pci,
    /// virtio-mmio, described in the DSDT.
    Mmio,
}

/// A virtio device. Every file descriptor is open, set up and owned by the machine process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceSpec {
    /// A filesystem share: a connected vhost-user socket to its virtiofsd.
    Fs { tag: String, socket: RawFd },
    /// A disk: a raw file or block device.
    Block {
        fd: RawFd,
        read_only: bool,
        /// Up to 20 bytes that the guest reads as the disk's serial number.
        id: String,
        queues: u16,
    },
    /// A network interface: a tap opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    Net {
        tap: RawFd,
        mac: [u8; 6],
        mtu: Option<u16>,
    },
    /// Sockets between host and guest.
    Vsock {
        /// A listening Unix stream socket: each connection opens with `CONNECT port\n`.
        listener: RawFd,
        /// The guest's connections to port P of the host go to the Unix socket `{prefix}_P`.
        prefix: PathBuf,
    },
    /// The console hvc0.
    Console {
        /// Read for what the user types; none: the guest never gets input.
        input: Option<RawFd>,
        /// Written with what the guest prints.
        output: RawFd,
    },
    /// A source of random numbers.
    Rng,
}
