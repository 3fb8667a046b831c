//! Mounts of the host within the root filesystem's share.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

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
    Ok(clone(&find(root, path)?, read_only)?)
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
    Ok(attach(taken, &target)?)
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
pub(super) fn bind(source: &OwnedFd, target: &OwnedFd, read_only: bool) -> nix::Result<()> {
    attach(&clone(source, read_only)?, target)
}

/// Another mount of `source` and of all below it, which is nowhere yet.
fn clone(source: &OwnedFd, read_only: bool) -> nix::Result<OwnedFd> {
    let below = u32::try_from(libc::AT_RECURSIVE).expect("a small positive constant");
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | at_empty_path() | below;
    // SAFETY: the path is a C string, and the descriptor is open.
    let tree =
        unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) };
    let tree = i32::try_from(Errno::result(tree)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the system call has just made this descriptor, and nobody else knows it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree) };
    if read_only {
        show_read_only(&tree)?;
    }
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: the paths are C strings, and the descriptors are open.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(moved).map(drop)
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
            at_empty_path(),
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
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, and the structure is valid for writing.
    let done = unsafe {
        libc::statx(
            found.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_TYPE,
            status.as_mut_ptr(),
        )
    };
    // SAFETY: all zeroes is a valid value, and the kernel writes no other ones.
    let status = unsafe { status.assume_init() };
    let root = u64::from(libc::STATX_ATTR_MOUNT_ROOT.cast_unsigned());
    done == 0 && status.stx_attributes & root != 0
}

fn at_empty_path() -> u32 {
    u32::try_from(libc::AT_EMPTY_PATH).expect("a small positive constant")
}
