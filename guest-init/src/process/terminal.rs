//! Pseudoterminals.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use runcvm_protocol::WindowSize;

nix::ioctl_write_ptr_bad!(set_lock, libc::TIOCSPTLCK, libc::c_int);
nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);

/// Opens a pseudoterminal of this size in the devpts whose root is `pts`: our end, which
/// does not block, and that of the process.
pub(crate) fn open(pts: &OwnedFd, size: WindowSize) -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let ours = openat(pts, "ptmx", flags, Mode::empty())?;
    // SAFETY: the descriptor is open, and the kernel only reads the integer.
    unsafe { set_lock(ours.as_raw_fd(), &0) }?;
    resize(&ours, size)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By its own path the other end could be another file by now; so no path.
    // SAFETY: the descriptor is open, and the request takes flags by value.
    let theirs = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    // SAFETY: the request has just made this descriptor, and nobody else knows it.
    let theirs = unsafe { OwnedFd::from_raw_fd(Errno::result(theirs)?) };
    Ok((ours, theirs))
}

/// Gives the terminal a new size; the kernel tells its foreground processes.
pub(crate) fn resize(ours: &OwnedFd, size: WindowSize) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and the kernel only reads the structure.
    unsafe { set_size(ours.as_raw_fd(), &size) }.map(drop)
}
