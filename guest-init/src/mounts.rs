//! Filesystems of the machine.
//!
//! Everything is mounted below [`SYSROOT`] of the initramfs, on directories found through
//! [`RootDir`]; then [`switch_root`] makes it the root.

mod disks;
pub(crate) mod fstab;
mod options;
mod scratch;
mod socket;
mod submount;
mod tmpfs;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::fstat;
use nix::unistd::{chdir, chroot, fchdir, symlinkat};
use runcvm_protocol::{Mount, MountSource};

pub(crate) use self::socket::mount_socket;
use crate::kernel_log;
use crate::rootdir::RootDir;

/// Where the root filesystem is mounted first.
pub(crate) const SYSROOT: &str = "/sysroot";

/// What hardly any filesystem is needed for.
pub(crate) const HARDENED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
const NOTHING: Option<&str> = None;

/// A filesystem that the kernel fills.
#[derive(Debug)]
pub(crate) struct KernelFilesystem {
    pub(crate) target: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) flags: MsFlags,
    pub(crate) data: Option<&'static str>,
    /// The machine is of no use without it; else a kernel may lack it.
    pub(crate) required: bool,
}

/// The processes of this PID namespace.
pub(crate) const PROC: KernelFilesystem = KernelFilesystem {
    target: "/proc",
    kind: "proc",
    flags: HARDENED,
    data: None,
    required: true,
};

/// What a container runtime mounts besides, less its restrictions: root owns this machine.
const KERNEL_FILESYSTEMS: [KernelFilesystem; 5] = [
    KernelFilesystem {
        target: "/sys",
        kind: "sysfs",
        flags: HARDENED,
        data: None,
        required: true,
    },
    KernelFilesystem {
        target: "/dev",
        kind: "devtmpfs",
        flags: MsFlags::MS_NOSUID,
        data: Some("mode=755"),
        required: true,
    },
    KernelFilesystem {
        target: "/dev/pts",
        kind: "devpts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: Some("gid=5,mode=620,ptmxmode=666"),
        required: true,
    },
    KernelFilesystem {
        target: "/dev/shm",
        kind: "tmpfs",
        flags: HARDENED,
        data: Some("mode=1777,size=64m"),
        required: true,
    },
    KernelFilesystem {
        target: "/dev/mqueue",
        kind: "mqueue",
        flags: HARDENED,
        data: None,
        required: false,
    },
];

/// Names in `/dev` that the kernel does not make.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
];

/// Directories that stay ours, whatever the workload mounts over them.
#[derive(Debug)]
pub(crate) struct Devices {
    /// The root of devtmpfs.
    pub(crate) dev: OwnedFd,
    /// The root of devpts.
    pub(crate) pts: OwnedFd,
}

/// Mounts the share `tag` as the root filesystem.
pub(crate) fn mount_root(tag: &str) -> Result<RootDir> {
    make_own_dir(SYSROOT)?;
    mount(
        Some(tag),
        SYSROOT,
        Some("virtiofs"),
        MsFlags::empty(),
        NOTHING,
    )
    .with_context(|| format!("cannot mount the root filesystem, share {tag}"))?;
    RootDir::new(Path::new(SYSROOT)).context("cannot open the root filesystem")
}

/// The directory on which a process in another PID namespace mounts its own [`PROC`].
pub(crate) fn make_proc_mountpoint(root: &RootDir) -> Result<OwnedFd> {
    let made = root.make_dir(Path::new(PROC.target));
    let (mountpoint, _) = made.with_context(|| format!("cannot make {}", PROC.target))?;
    Ok(mountpoint)
}

/// Mounts what else the kernel shows as filesystems, and completes `/dev`. What holds files
/// is left out where one of the `later` mounts takes its place.
pub(crate) fn mount_kernel_filesystems(root: &RootDir, later: &[Mount]) -> Result<Devices> {
    for filesystem in &KERNEL_FILESYSTEMS {
        let target = Path::new(filesystem.target);
        let replaced = later
            .iter()
            .any(|mount| Path::new(OsStr::from_bytes(&mount.target)) == target);
        if filesystem.kind != "tmpfs" || !replaced {
            mount_kernel_filesystem(root, filesystem)?;
        }
    }
    let dir = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let dev = root
        .open(Path::new("/dev"), dir)
        .context("cannot open /dev")?;
    for (target, name) in DEVICE_LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => kernel_log::error(&format!("cannot make /dev/{name}: {e}")),
        }
    }
    let pts = root
        .open(Path::new("/dev/pts"), dir)
        .context("cannot open /dev/pts")?;
    Ok(Devices { dev, pts })
}

/// Mounts one of them.
pub(crate) fn mount_kernel_filesystem(root: &RootDir, what: &KernelFilesystem) -> Result<()> {
    match mount_kind(
        root,
        Path::new(what.target),
        what.kind,
        what.flags,
        what.data,
    ) {
        Ok(()) => Ok(()),
        Err(e) if what.required => {
            Err(e).with_context(|| format!("cannot mount {} on {}", what.kind, what.target))
        }
        Err(e) => {
            kernel_log::error(&format!(
                "cannot mount {} on {}: {e}",
                what.kind, what.target
            ));
            Ok(())
        }
    }
}

/// Mounts a filesystem of this kind that has no source.
pub(crate) fn mount_kind(
    root: &RootDir,
    path: &Path,
    kind: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> io::Result<()> {
    let (target, _) = root.make_dir(path)?;
    mount_on(&target, kind, kind, flags, data)
}

/// Mounts all that the user asked for, in this order.
pub(crate) fn mount_all_for_user(root: &RootDir, mounts: &[Mount]) -> Result<()> {
    let path = |mount: &Mount| PathBuf::from(OsStr::from_bytes(&mount.target));
    let is_submount = |mount: &Mount| mount.source == MountSource::Submount;
    // What the host has mounted below another mount of the guest will not be there any more.
    let may_hide = |mount: &Mount| !is_submount(mount) && !path(mount).starts_with("/dev");
    let mut taken = Vec::new();
    if let Some(first) = mounts.iter().position(may_hide) {
        for (index, mount) in mounts.iter().enumerate().skip(first) {
            if is_submount(mount) {
                let tree = submount::take(root, &path(mount), mount.read_only);
                taken.push((index, tree.with_context(|| cannot_mount(&path(mount)))?));
            }
        }
    }
    for (index, mount) in mounts.iter().enumerate() {
        match taken.iter().find(|(of, _)| *of == index) {
            Some((_, tree)) if submount::is_hidden(root, &path(mount), tree) => {
                submount::put(root, &path(mount), tree)
                    .with_context(|| cannot_mount(&path(mount)))?;
            }
            _ => mount_for_user(root, mount)?,
        }
    }
    Ok(())
}

fn cannot_mount(path: &Path) -> String {
    format!("cannot mount on {}", path.display())
}

/// Mounts one thing that the user asked for.
pub(crate) fn mount_for_user(root: &RootDir, wanted: &Mount) -> Result<()> {
    let path = Path::new(OsStr::from_bytes(&wanted.target));
    let done = match &wanted.source {
        MountSource::Share { tag, file: None } => {
            mount_share(root, path, tag, wanted.read_only).map_err(Into::into)
        }
        MountSource::Share {
            tag,
            file: Some(file),
        } => mount_shared_file(root, path, tag, file, wanted.read_only),
        MountSource::Tmpfs { options } => tmpfs::mount(root, path, options, wanted.read_only),
        MountSource::Disk {
            serial,
            filesystem,
            options,
        } => disks::mount(root, path, serial, filesystem, options),
        MountSource::Submount => submount::mount(root, path, wanted.read_only).map_err(Into::into),
    };
    done.with_context(|| cannot_mount(path))
}

/// Makes the root filesystem as read-only as it is to be, once every mountpoint is there.
pub(crate) fn make_root_read_only(root: &RootDir) -> Result<()> {
    make_read_only(root.as_fd()).context("cannot make the root filesystem read-only")
}

/// Makes `root`, mounted on [`SYSROOT`], the root of this process and all later ones.
pub(crate) fn switch_root(root: &RootDir) -> Result<()> {
    fchdir(root)
        .and_then(|()| mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .context("cannot switch to the root filesystem")
}

/// Mounts on a directory by descriptor: as the working directory, since there is no `/proc`
/// to name it by.
fn mount_on(
    target: &OwnedFd,
    source: &str,
    kind: &str,
    flags: MsFlags,
    data: Option<&str>,
) -> io::Result<()> {
    fchdir(target)?;
    mount(Some(source), ".", Some(kind), flags, data)?;
    Ok(())
}

fn make_read_only(mounted: impl AsFd) -> nix::Result<()> {
    fchdir(mounted)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NOTHING, ".", NOTHING, flags, NOTHING)
}

fn mount_share(root: &RootDir, path: &Path, tag: &str, read_only: bool) -> io::Result<()> {
    let (target, _) = root.make_dir(path)?;
    mount_on(&target, tag, "virtiofs", MsFlags::empty(), None)?;
    if read_only {
        make_read_only(root.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?)?;
    }
    Ok(())
}

fn mount_shared_file(
    root: &RootDir,
    path: &Path,
    tag: &str,
    file: &[u8],
    read_only: bool,
) -> Result<()> {
    let target = root.make_file(path)?;
    let file = Path::new(OsStr::from_bytes(file));
    scratch::with_share(tag, |dir| bind_file(dir, file, &target, read_only))
}

/// Mounts `file` of the share that is mounted on `dir` over the file `target`.
fn bind_file(dir: &Path, file: &Path, target: &OwnedFd, read_only: bool) -> Result<()> {
    let share = RootDir::new(dir)?;
    if read_only {
        make_read_only(&share)?;
        chdir("/")?;
    }
    let source = share
        .open(file, OFlag::O_PATH)
        .with_context(|| format!("cannot open {} of the share", file.display()))?;
    if fstat(&source)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
        bail!("{} of the share is a directory", file.display());
    }
    submount::bind(&source, target, false)?;
    Ok(())
}

fn make_own_dir(path: &str) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(e).with_context(|| format!("cannot make {path} in the initramfs"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
