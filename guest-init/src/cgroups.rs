//! Control groups as the workload finds them.
//!
//! All is writable: the machine's root may divide the machine as it likes.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use runcvm_protocol::Cgroups;

use crate::kernel_log;
use crate::mounts::{HARDENED, mount_kind};
use crate::procfs;
use crate::rootdir::RootDir;

const TARGET: &str = "/sys/fs/cgroup";

/// Mounts what `mode` says below `root`. Kernels may lack any of it, which is logged only.
pub(crate) fn mount(root: &RootDir, mode: Cgroups, systemd: bool) -> Result<()> {
    let mode = match mode {
        Cgroups::Auto if systemd => Cgroups::None,
        Cgroups::Auto => Cgroups::V2,
        mode => mode,
    };
    match mode {
        Cgroups::Auto | Cgroups::None => {}
        Cgroups::V2 => {
            mount_or_log(root, TARGET, "cgroup2", None);
        }
        Cgroups::V1 => mount_controllers(root)?,
        Cgroups::Hybrid => {
            mount_controllers(root)?;
            mount_or_log(root, &format!("{TARGET}/unified"), "cgroup2", None);
        }
    }
    Ok(())
}

/// Mounts a hierarchy of version 1 for each controller of the kernel.
fn mount_controllers(root: &RootDir) -> Result<()> {
    let data = Some("mode=755");
    mount_kind(root, Path::new(TARGET), "tmpfs", HARDENED, data)
        .with_context(|| format!("cannot mount tmpfs on {TARGET}"))?;
    let dir = root.open(Path::new(TARGET), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    for name in controllers(&read_controllers().context("cannot read /proc/cgroups")?) {
        // Some of those that are enabled have no version 1.
        if !mount_or_log(root, &format!("{TARGET}/{name}"), "cgroup", Some(name)) {
            let _ = unlinkat(&dir, name, UnlinkatFlags::RemoveDir);
        }
    }
    Ok(())
}

/// Returns whether it is mounted.
fn mount_or_log(root: &RootDir, target: &str, kind: &str, data: Option<&str>) -> bool {
    let mounted = mount_kind(root, Path::new(target), kind, HARDENED, data);
    if let Err(e) = &mounted {
        kernel_log::error(&format!("cannot mount {kind} on {target}: {e}"));
    }
    mounted.is_ok()
}

fn read_controllers() -> io::Result<String> {
    let file = procfs::open()?.open(Path::new("cgroups"), OFlag::O_RDONLY)?;
    let mut list = String::new();
    std::fs::File::from(file).read_to_string(&mut list)?;
    Ok(list)
}

/// The controllers that are enabled, by what `/proc/cgroups` says (cgroups(7)): name,
/// hierarchy, number of groups, enabled.
fn controllers(list: &str) -> Vec<&str> {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            (fields.nth(2) == Some("1")).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enabled_controllers_are_found() {
        let list = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
            cpuset\t0\t1\t1\ncpu\t0\t1\t1\nmemory\t0\t1\t0\nodd\n\npids\t3\t40\t1\n";
        assert_eq!(controllers(list), ["cpuset", "cpu", "pids"]);
    }
}
