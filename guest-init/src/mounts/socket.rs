//! A Unix socket in a place of the root filesystem, which may have none.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode};

use super::{scratch, submount};
use crate::rootdir::RootDir;

/// Permissions of a socket that takes the place of none.
const MODE: u32 = 0o660;

/// Listens on a socket in a filesystem of its own, and mounts it at `path`, with owner and
/// permissions of `original`.
pub(crate) fn mount_socket(
    root: &RootDir,
    path: &Path,
    original: Option<&FileStat>,
) -> Result<UnixListener> {
    scratch::with_memory("sockets", |dir| make(dir, root, path, original))
        .with_context(|| format!("cannot make the socket {}", path.display()))
}

fn make(
    dir: &Path,
    root: &RootDir,
    path: &Path,
    original: Option<&FileStat>,
) -> Result<UnixListener> {
    let own = dir.join("socket");
    let listener = UnixListener::bind(&own)?;
    let mode = original.map_or(MODE, |original| original.st_mode & 0o7777);
    std::fs::set_permissions(&own, PermissionsExt::from_mode(mode))?;
    if let Some(original) = original {
        chown(&own, Some(original.st_uid), Some(original.st_gid))?;
    }
    let socket = open(&own, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    submount::bind(&socket, &root.make_file(path)?, false)?;
    Ok(listener)
}
