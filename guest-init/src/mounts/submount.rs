//! Mounts of the host within the root filesystem's share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::make_read_only;
use crate::rootdir::RootDir;

/// Makes what the host has mounted at `path` a mount of the guest.
pub(super) fn mount(root: &RootDir, path: &Path, read_only: bool) -> io::Result<()> {
    let found = find(root, path)?;
    if !is_mounted(&found) {
        bind(&found, &found, read_only)?;
    } else if read_only {
        make_read_only(&found)?;
    }
    Ok(())
}

/// What is at `path`, to be mounted once something else hides it there.
pub(super) fn take(root: &RootDir, path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    clone(&find(root, path)?, read_only)
}

/// Something else is at `path` now than what was taken from there.
pub(super) fn is_hidden(root: &RootDir, path: &Path, taken: &OwnedFd) -> bool {
    let identity = |fd: &OwnedFd| fstat(fd).map(|found| (found.st_dev, found.st_ino));
    find(root, path).and_then(|found| identity(&found)) != identity(taken)
}

/// Mounts at `path` what was taken from there, on a file or directory that is made if it is
/// not there.
pub(super) fn put(root: &RootDir, path: &Path, taken: &OwnedFd) -> io::Result<()> {
    let directory = fstat(taken)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let target = match directory {
        true => root.make_dir(path)?.0,
        false => root.make_file(path)?,
    };
    attach(taken, &target)
}

fn find(root: &RootDir, path: &Path) -> nix::Result<OwnedFd> {
    // The kernel mounts what virtiofsd says to be a directory of another filesystem, once
    // somebody wants it as a directory.
    match root.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Err(Errno::ENOTDIR) => root.open(path, OFlag::O_PATH),
        result => result,
    }
}

/// Mounts `source`, with what is mounted below it, over `target` as a bind mount does, both
/// by descriptor.
pub(super) fn bind(source: &OwnedFd, target: &OwnedFd, read_only: bool) -> io::Result<()> {
    attach(&clone(source, read_only)?, target)
}

/// Another mount of `source` and of all below it, which is nowhere yet.
fn clone(source: &OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(source, c"", flags)?;
    if read_only {
        show_read_only(&tree)?;
    }
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, c"", target, c"", flags)?)
}

/// Makes a mount read-only that is nowhere yet. A kernel before 5.12 cannot, and there only
/// the host refuses to write.
fn show_read_only(tree: &OwnedFd) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and the structure is valid for its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(e) => Err(e),
    }
}

/// `found` is the root of a mount. Kernels before 5.8 do not tell.
fn is_mounted(found: &OwnedFd) -> bool {
    let status = statx(found, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE);
    status.is_ok_and(|status| status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
