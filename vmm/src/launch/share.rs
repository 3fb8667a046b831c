//! Shared directories: one virtiofsd each, started while the machine is being built. It gets
//! a listening socket to which the machine is already connected, so nobody waits for anybody.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::child::Helper;
use super::rundir::RunDir;
use super::sandbox::{self, Sandbox};

/// What a file is called in the otherwise empty directory that is shared in its place.
pub(crate) const FILE_NAME: &str = "file";

/// Why a share cannot be made.
#[derive(Debug, Error)]
pub enum Error {
    #[error("The root filesystem {0} is no directory, which it must be")]
    RootNotDirectory(PathBuf),
    #[error("The root filesystem {0} cannot be used")]
    Root(PathBuf, #[source] io::Error),
    #[error("The volume {0} cannot be used")]
    Volume(PathBuf, #[source] io::Error),
    #[error("The volume {0} is neither a directory nor a file, one of which it must be")]
    Special(PathBuf),
    #[error(
        "The file {0} cannot be shared without root or user namespaces: share its directory, \
         or run as root"
    )]
    FileUnprivileged(PathBuf),
    #[error("virtiofsd is not installed at {0}: install runcvm, or set RUNCVM_HOME to where it is")]
    NotInstalled(PathBuf),
    #[error("virtiofsd cannot be started")]
    Start(#[source] io::Error),
}

/// What a guest keeps of shared files: virtiofsd's `--cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// What it has read, for a second, or until the file is opened again.
    #[default]
    Auto,
    /// Nothing.
    Never,
    /// Everything, as if nobody else changed it.
    Always,
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Always => "always",
        }
    }
}

/// How shares are served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Service {
    pub(crate) cache: Cache,
    /// With `CAP_SYS_ADMIN`.
    pub(crate) sys_admin: bool,
}

/// A directory or file of the host that was opened to be shared.
#[derive(Debug)]
pub(crate) struct Opened {
    path: PathBuf,
    target: Target,
    read_only: bool,
}

#[derive(Debug)]
enum Target {
    Directory(File),
    /// Absolute path, which is opened again in a mount namespace of its own.
    File(CString),
}

/// Opens a directory that is to be the root filesystem.
pub(crate) fn open_root(path: &Path, read_only: bool) -> Result<Opened, Error> {
    match open(path).map_err(|e| Error::Root(path.into(), e))? {
        Some(target @ Target::Directory(_)) => Ok(Opened {
            path: path.into(),
            target,
            read_only,
        }),
        Some(Target::File(_)) | None => Err(Error::RootNotDirectory(path.into())),
    }
}

/// Opens a directory or file that is to be a volume.
pub(crate) fn open_volume(path: &Path, read_only: bool) -> Result<Opened, Error> {
    let target = open(path).map_err(|e| Error::Volume(path.into(), e))?;
    Ok(Opened {
        path: path.into(),
        target: target.ok_or_else(|| Error::Special(path.into()))?,
        read_only,
    })
}

/// Opens a directory or file; `None` if it is neither.
fn open(path: &Path) -> io::Result<Option<Target>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_dir() {
        Some(Target::Directory(file))
    } else if kind.is_file() {
        let absolute = path.canonicalize()?.into_os_string().into_vec();
        let absolute = CString::new(absolute).expect("the kernel's paths have no zero bytes");
        Some(Target::File(absolute))
    } else {
        None
    })
}

impl Opened {
    /// It is a single file, found as [`FILE_NAME`] in the share.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.target, Target::File(_))
    }
}

/// A share that is being served.
#[derive(Debug)]
pub(crate) struct Share {
    /// What is shared.
    pub(crate) path: PathBuf,
    pub(crate) daemon: Helper,
}

/// Starts the virtiofsd at `program` for the `index`th share. Returns the machine's end of the
/// connection too.
pub(crate) fn start(
    program: &Path,
    service: Service,
    opened: Opened,
    run_dir: &RunDir,
    index: usize,
) -> Result<(Share, OwnedFd), Error> {
    let Opened {
        path,
        target,
        read_only,
    } = opened;
    if !program.exists() {
        return Err(Error::NotInstalled(program.into()));
    }
    let sandbox = sandbox::strongest();
    let (listener, client) =
        connected_listener(&run_dir.path().join(format!("fs-{index}"))).map_err(Error::Start)?;

    let mut command = Command::new(program);
    command.env_clear();
    command.args(["--shared-dir", "."]);
    command.arg("--fd").arg(listener.as_raw_fd().to_string());
    command.args(["--sandbox", sandbox.mode()]);
    command.args(["--cache", service.cache.name()]);
    command.args(["--xattr", "--posix-acl=auto"]);
    if service.sys_admin {
        command.arg("--modcaps=+sys_admin");
    }
    command.args(["--announce-submounts", "--log-level", "error"]);
    if read_only {
        command.arg("--readonly");
    }
    let inherited = vec![listener.as_raw_fd()];
    let daemon = match target {
        Target::Directory(directory) => {
            let ids = sandbox.own_user_namespace();
            Helper::start(command, inherited, move || {
                if let Some(ids) = &ids {
                    ids.enter()?;
                }
                nix::unistd::fchdir(&directory)?;
                Ok(())
            })
        }
        Target::File(source) => {
            if sandbox == Sandbox::None {
                return Err(Error::FileUnprivileged(path));
            }
            let ids = sandbox.own_user_namespace();
            let stage = run_dir.path().join(format!("share-{index}"));
            fs::create_dir(&stage).map_err(Error::Start)?;
            let stage = sandbox::FileStage::new(&stage, FILE_NAME, source);
            Helper::start(command, inherited, move || {
                if let Some(ids) = &ids {
                    ids.enter()?;
                }
                stage.enter()
            })
        }
    };
    let daemon = daemon.map_err(Error::Start)?;
    Ok((Share { path, daemon }, client.into()))
}

/// A listening socket, and one that is already connected to it. It has no path any more, so
/// nobody else can connect.
fn connected_listener(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let client = UnixStream::connect(path);
    fs::remove_file(path)?;
    Ok((listener, client?))
}

#[cfg(test)]
mod tests;
