//! What the runtime tells the processes that it has runc start in a container: messages in
//! JSON, each in a sealed memory file that they inherit.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use runcvm_kernels::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::options::Options;

/// The program itself, as `/proc/self/fd/3`: it runs although the image does not have it.
pub(crate) const PROGRAM_FD: i32 = 3;

/// The message: a [`ContainerSpec`] for `supervise`, an [`ExecSpec`] for `attach`.
pub(crate) const MESSAGE_FD: i32 = 4;

/// Where we are installed, as a mount that is not attached to anything yet (open_tree(2)).
/// For `supervise` only.
pub(crate) const PREFIX_FD: i32 = 5;

/// The container as docker asked for it, for its first process, `supervise`.
///
/// runc sets the container up as ever: root filesystem, all mounts, network, control group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    pub(crate) id: String,
    /// The process that docker asked for.
    pub(crate) process: Process,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) root_read_only: bool,
    /// Where the user mounted something of the host's that the guest is to see, parents
    /// before what is below them. Other mounts are the container's own.
    pub(crate) volumes: Vec<PathBuf>,
    /// Memory filesystems, which the guest mounts by itself; `/dev/shm` is one of them.
    pub(crate) tmpfs: Vec<Tmpfs>,
    /// Kernel parameters by dotted name.
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) cpus: u8,
    /// Guest memory in bytes.
    pub(crate) memory: u64,
    pub(crate) kernel: Kernel,
    pub(crate) options: Options,
    /// Sentences for the container's stderr, before anything else.
    pub(crate) warnings: Vec<String>,
}

impl ContainerSpec {
    /// Where `store` has the modules of its kernel; none if they are in the image.
    pub(crate) fn modules(&self, store: &Store) -> Result<Option<PathBuf>, StoreError> {
        let name = match &self.kernel {
            Kernel::Default => None,
            Kernel::Bundle(name) => Some(name.as_str()),
            Kernel::OfImage(_) => return Ok(None),
        };
        Ok(Some(store.resolve(name)?.modules))
    }
}

/// The kernel that a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kernel {
    /// The default.
    Default,
    /// A bundle, by its name.
    Bundle(String),
    /// One that the image has, of which a bundle was made: its directory below ours.
    OfImage(PathBuf),
}

/// A filesystem in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tmpfs {
    /// Absolute path in the container.
    pub(crate) target: PathBuf,
    /// As in `mount -o`.
    pub(crate) options: String,
}

/// A further process for a running container, for `attach`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    pub(crate) process: Process,
}
