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
    /// Its NIS domain name, if it is to be set.
    pub domainname: Option<ByteBuf>,
    /// Kernel parameters as sysctl(8) writes them, by dotted name.
    pub sysctls: Vec<(String, String)>,
    /// What is mounted on `/sys/fs/cgroup`.
    pub cgroups: Cgroups,
    /// Where the guest listens for what the host answers.
    pub forwards: Vec<Forward>,
    /// IPv6 is off but for the interfaces that have addresses or routes of it; the loopback
    /// interface has none then.
    pub no_ipv6: bool,
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
    /// A filesystem on the disk with this serial number, with options as in `mount -o`.
    Disk {
        serial: String,
        filesystem: String,
        options: ByteBuf,
    },
    /// What the host has mounted at this place of the root filesystem's share, a directory
    /// or a file. It becomes a mount of the guest too, which may be writable where the root
    /// filesystem is not.
    Submount,
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
    /// Further routes.
    pub routes: Vec<Route>,
}

/// A route through the interface that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to, with its prefix length.
    pub destination: (std::net::IpAddr, u8),
    /// The router of the same family; none for what is on the link.
    pub gateway: Option<std::net::IpAddr>,
    /// Its metric, if not the kernel's choice.
    pub metric: Option<u32>,
}

/// Control groups as the workload finds them on `/sys/fs/cgroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroups {
    /// [`Self::None`] for systemd, which mounts them by itself; [`Self::V2`] for all else.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// One hierarchy for each controller, of version 1.
    V1,
    /// The unified hierarchy.
    V2,
    /// Controllers in hierarchies of version 1, and the unified one, without, in `unified`.
    Hybrid,
}

/// A place in the guest at which connections arrive for the host, each of which is carried
/// over a vsock connection of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Where the guest listens.
    pub at: ForwardAt,
    /// Where the host listens, on vsock.
    pub port: u32,
}

/// Where the guest listens. At a loopback address of IPv4 other than 127.0.0.1 processes find it
/// there, but the port stays free for one that listens at all addresses, if the kernel runs BPF
/// programs for control groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardAt {
    /// A Unix stream socket in place of the socket at this absolute path of the root
    /// filesystem, with its owner and permissions.
    Unix(ByteBuf),
    /// TCP at this address.
    Tcp(std::net::SocketAddr),
    /// UDP at this address. Each datagram has a connection of its own, on which it and the
    /// answer are preceded by their lengths in two bytes, big-endian, as DNS over TCP has
    /// them (RFC 1035, section 4.2.2).
    Udp(std::net::SocketAddr),
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its arguments; the first is the program, looked up in `PATH` of `env` unless it has
    /// a slash.
    pub args: Vec<ByteBuf>,
    /// Its environment, each `NAME=VALUE`, complete but for `HOME`, which the guest adds
    /// from its user database where it is missing, as docker does.
    pub env: Vec<ByteBuf>,
    /// Working directory. That of the workload is made if it is not there.
    pub cwd: ByteBuf,
    pub user: User,
    /// Resource limits, over what the guest's processes begin with.
    pub limits: Vec<Limit>,
    /// File mode creation mask, if not 0o022.
    pub umask: Option<u32>,
    /// What the guest's OOM killer thinks of it, -1000 to 1000, if not 0.
    pub oom_score_adj: Option<i32>,
    /// Neither it nor its children gain privileges by execve(2).
    pub no_new_privileges: bool,
    /// A terminal of this size is its stdin, stdout and stderr.
    pub terminal: Option<WindowSize>,
    /// The host feeds its stdin; else stdin is `/dev/null`, or silent if a terminal.
    pub stdin: bool,
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// `USER[:GROUP]`, names or numbers, resolved in the guest; empty means root.
    Named(ByteBuf),
    /// User and groups as they are.
    Ids {
        uid: u32,
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

impl Default for User {
    fn default() -> Self {
        Self::Named(ByteBuf::new())
    }
}

/// A resource limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The kernel's number of the resource (`RLIMIT_…`).
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
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
