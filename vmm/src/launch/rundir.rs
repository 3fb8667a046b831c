//! The directory of a running machine: its name, its sockets, and the lock that says that it
//! lives. The lock is a `flock` on the directory itself, so it goes with its launcher,
//! however that ends; what a killed launcher left is removed by whoever comes next.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::privileges::{self, NOBODY};

/// Greatest length of a machine's name; a hostname of Linux has at most 64 bytes.
pub const MAX_NAME: usize = 64;

/// Room for a socket's path in `sockaddr_un`, less the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Why there is no such directory.
#[derive(Debug, Error)]
pub enum Error {
    #[error(
        "The name \"{0}\" is no machine's name: it must be 1 to {MAX_NAME} letters, digits, \
         dots, dashes and underscores, beginning with a letter or digit"
    )]
    BadName(String),
    #[error("The name \"{0}\" is in use by a running machine: choose another, or stop that one")]
    InUse(String),
    #[error("No machine named \"{0}\" is running: `runcvm-vmm list` shows those that are")]
    NotRunning(String),
    #[error("XDG_RUNTIME_DIR is not set: set it or RUNCVM_RUN_DIR to a directory of yours")]
    NoBase,
    #[error("The run directory {0} is not UTF-8: set RUNCVM_RUN_DIR to another")]
    NotUtf8(PathBuf),
    #[error(
        "The run directory {0} is too long for a socket's path: set RUNCVM_RUN_DIR to a shorter one"
    )]
    TooLong(PathBuf),
    #[error("The run directory {0} cannot be used")]
    Io(PathBuf, #[source] io::Error),
}

/// Where the directories of all machines are: `RUNCVM_RUN_DIR`, `/run/runcvm` for root, or
/// `runcvm` in `XDG_RUNTIME_DIR`.
pub fn base() -> Result<PathBuf, Error> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(dir) = set("RUNCVM_RUN_DIR") {
        return std::path::absolute(&dir).map_err(|e| Error::Io(dir.into(), e));
    }
    if nix::unistd::geteuid().is_root() {
        return Ok("/run/runcvm".into());
    }
    let runtime = set("XDG_RUNTIME_DIR").ok_or(Error::NoBase)?;
    Ok(Path::new(&runtime).join("runcvm"))
}

/// Refuses what is no name for a machine.
pub fn check_name(name: &str) -> Result<(), Error> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if first && rest && name.len() <= MAX_NAME {
        Ok(())
    } else {
        Err(Error::BadName(name.into()))
    }
}

/// The directory of a machine that this process launches; removed when dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory of machine `name` in `base`, or takes it over from a launcher
    /// that died.
    pub(crate) fn acquire(base: &Path, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        let path = base.join(name);
        if path.to_str().is_none() {
            return Err(Error::NotUtf8(path));
        }
        if path.as_os_str().len() + "/vsock.sock_4294967295".len() > MAX_SOCKET_PATH {
            return Err(Error::TooLong(path));
        }
        let failed = |e| Error::Io(path.clone(), e);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(base)
            .map_err(|e| Error::Io(base.into(), e))?;
        // Another launcher, or one who tidies up, may come between any two steps.
        loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
                created => match lock(&path).map_err(failed)? {
                    Lock::Gone => {}
                    // Who looks for the machine holds the lock for a moment, too.
                    Lock::Held if created.is_ok() => {}
                    Lock::Held => return Err(Error::InUse(name.into())),
                    Lock::Taken(lock) if created.is_ok() => {
                        admit_machine(&path).map_err(failed)?;
                        return Ok(Self { path, _lock: lock });
                    }
                    Lock::Taken(_stale) => fs::remove_dir_all(&path).map_err(failed)?,
                },
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        control_socket(&self.path)
    }

    pub(crate) fn vsock_socket(&self) -> PathBuf {
        vsock_socket(&self.path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next launcher.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Lets the machine process, if it is an unprivileged user's, find its sockets in `dir`.
fn admit_machine(dir: &Path) -> io::Result<()> {
    if !privileges::can_become_nobody() {
        return Ok(());
    }
    std::os::unix::fs::chown(dir, None, Some(NOBODY))?;
    fs::set_permissions(dir, Permissions::from_mode(0o710))
}

/// Where a machine's control socket is.
pub(crate) fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Where a machine's sockets to its guest are.
pub(crate) fn vsock_socket(dir: &Path) -> PathBuf {
    dir.join("vsock.sock")
}

/// Where it is kept what a machine's workload was started with: an encoded
/// [`runcvm_protocol::GuestConfig`].
pub(crate) fn config_file(dir: &Path) -> PathBuf {
    dir.join("config")
}

/// The directory of the running machine `name`.
pub(crate) fn find(base: &Path, name: &str) -> Result<PathBuf, Error> {
    check_name(name)?;
    let path = base.join(name);
    if is_running(&path) {
        Ok(path)
    } else {
        Err(Error::NotRunning(name.into()))
    }
}

/// The machine of the directory `path` lives.
pub(crate) fn is_running(path: &Path) -> bool {
    matches!(lock(path), Ok(Lock::Held))
}

/// The names of all running machines, sorted. Removes the directories of dead ones.
pub(crate) fn running(base: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::Io(base.into(), e)),
    };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if check_name(&name).is_ok() && !remove_if_stale(&entry.path()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes the directory of a launcher that died; false if its machine lives.
pub(crate) fn remove_if_stale(path: &Path) -> bool {
    match lock(path) {
        Ok(Lock::Held) => false,
        Ok(Lock::Taken(_lock)) => {
            let _ = fs::remove_dir_all(path);
            true
        }
        Ok(Lock::Gone) | Err(_) => true,
    }
}

enum Lock {
    Taken(File),
    Held,
    /// The directory is not there, or no longer the one at this path.
    Gone,
}

fn lock(path: &Path) -> io::Result<Lock> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Gone),
        Err(e) => return Err(e),
    };
    let opened = dir.metadata()?;
    if !opened.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    match dir.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Lock::Held),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    match fs::symlink_metadata(path) {
        Ok(now) if now.dev() == opened.dev() && now.ino() == opened.ino() => Ok(Lock::Taken(dir)),
        Ok(_) => Ok(Lock::Gone),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Lock::Gone),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
