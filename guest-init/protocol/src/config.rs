//! What the guest must know before it starts.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Everything that PID 1 needs to turn a freshly booted kernel into the user's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Tag of the virtiofs share that is the root filesystem.
    pub root_tag: String,
    /// The root filesystem cannot be written.
    pub root_read_only: bool,
    /// Mounted over the root filesystem, in this order.
    pub mounts: Vec<Mount>,
    /// The host's name, if it is to be set.
    pub hostname: Option<ByteBuf>,
    /// Network interfaces, each found by its hardware address.
    pub interfaces: Vec<Interface>,
    /// What the user wants to run.
    pub process: Process,
    /// Who is PID 1 in the user's eyes.
    pub init: InitMode,
}

/// A filesystem to mount in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What to mount.
    pub source: MountSource,
    /// Absolute path in the root filesystem. Made, with its parents, if it is not there.
    pub target: ByteBuf,
    /// It cannot be written.
    pub read_only: bool,
}

/// Where a mounted filesystem comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A virtiofs share, by tag.
    Share {
        tag: String,
        /// Only this file of the share is mounted, over a file.
        file: Option<ByteBuf>,
    },
    /// A tmpfs with mount options as in `mount -o`.
    Tmpfs { options: ByteBuf },
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Hardware address by which the guest knows it.
    pub mac: [u8; 6],
    /// Name that it gets.
    pub name: String,
    /// Maximum transmission unit in bytes, if not the device's own.
    pub mtu: Option<u32>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(std::net::IpAddr, u8)>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<std::net::IpAddr>,
}

/// Who is PID 1 in the user's eyes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitMode {
    /// [`Self::Pid1`] for an init system, [`Self::Namespaced`] for all else.
    #[default]
    Auto,
    /// The command replaces runcvm-init as PID 1 of the machine.
    Pid1,
    /// The command is PID 1 of a PID namespace, with runcvm-init outside.
    Namespaced,
}

/// A process to run in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its arguments; the first is the program, looked up in `PATH` of `env` unless it has
    /// a slash.
    pub args: Vec<ByteBuf>,
    /// Its environment, each `NAME=VALUE`, complete but for `HOME`, which the guest adds
    /// from its user database where it is missing, as docker does.
    pub env: Vec<ByteBuf>,
    /// Working directory. Made if it is not there.
    pub cwd: ByteBuf,
    /// `USER[:GROUP]`, names or numbers, resolved in the guest; empty means root.
    pub user: ByteBuf,
    /// A terminal of this size is its stdin, stdout and stderr.
    pub terminal: Option<WindowSize>,
    /// The host feeds its stdin; else stdin is `/dev/null`, or silent if a terminal.
    pub stdin: bool,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

impl GuestConfig {
    /// Encodes it for [`crate::CONFIG_PATH`].
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("only I/O can fail, and there is none")
    }

    /// Decodes what [`Self::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
