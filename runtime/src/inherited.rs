//! What a process in a container was given by the runtime: open descriptors.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::de::DeserializeOwned;

use crate::container::MESSAGE_FD;

/// Takes descriptor `number`, which the runtime left open for this process. It is closed in
/// programs that this process starts.
pub(crate) fn take(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: takes no pointer; tells whether the descriptor is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        bail!("This is run by runcvm in a container, and by nobody else");
    }
    // SAFETY: the descriptor is open, and each caller takes a number that is its own.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// Leaves `fd` open for the next program.
pub(crate) fn keep(fd: &OwnedFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes the runtime's message. It can be read again by the next program.
pub(crate) fn message<T: DeserializeOwned>() -> Result<(T, OwnedFd)> {
    let mut file = File::from(take(MESSAGE_FD)?);
    file.rewind()?;
    let mut json = Vec::new();
    file.read_to_end(&mut json)
        .context("The runtime's message cannot be read")?;
    let message =
        serde_json::from_slice(&json).context("The runtime's message cannot be understood")?;
    Ok((message, file.into()))
}
