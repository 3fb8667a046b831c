//! The proc filesystem of this process's own PID namespace, mounted nowhere: `/proc` of the
//! root filesystem is the workload's.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::rootdir::RootDir;

/// Makes one. It lasts as long as what is returned.
pub(crate) fn open() -> nix::Result<RootDir> {
    // SAFETY: the name is a C string.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    let number = context.as_raw_fd();
    // SAFETY: the command takes no key and no value.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            number,
            libc::FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    };
    Errno::result(created)?;
    // SAFETY: takes numbers only.
    let root =
        owned(unsafe { libc::syscall(libc::SYS_fsmount, number, libc::FSMOUNT_CLOEXEC, 0) })?;
    Ok(RootDir::from(root))
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: a system call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
