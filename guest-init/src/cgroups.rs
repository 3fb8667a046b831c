//! Control groups as the workload finds them.

use nix::mount::MsFlags;

use crate::mounts::KernelFilesystem;

/// The unified hierarchy, writable: the machine's root may divide the machine as it likes.
/// An init system mounts what it wants by itself.
pub(crate) const UNIFIED: KernelFilesystem = KernelFilesystem {
    target: "/sys/fs/cgroup",
    kind: "cgroup2",
    flags: MsFlags::MS_NOSUID
        .union(MsFlags::MS_NODEV)
        .union(MsFlags::MS_NOEXEC),
    data: None,
    required: false,
};
