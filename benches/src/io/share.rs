//! The directory that guests share: one virtiofsd for each guest, whoever its monitor is.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use runcvm_kernels::Prefix;

/// Files that the guest looks at, in a directory of their own.
const FILES: usize = 200;

/// The directory and the program that serves it.
#[derive(Debug)]
pub(super) struct Directory {
    program: PathBuf,
    path: PathBuf,
    socket: PathBuf,
}

/// A running virtiofsd; killed when dropped.
#[derive(Debug)]
pub(super) struct Share {
    daemon: Child,
    socket: PathBuf,
}

impl Directory {
    /// Makes a directory in `scratch` with a file of `size` bytes and many empty ones.
    pub(super) fn make(prefix: &Prefix, scratch: &Path, size: usize) -> Result<Self> {
        let path = scratch.join("share");
        fs::create_dir_all(path.join("files"))?;
        fs::write(path.join("file"), vec![0xa5; size])?;
        for number in 0..FILES {
            File::create(path.join("files").join(number.to_string()))?;
        }
        Ok(Self {
            program: prefix.libexec("virtiofsd"),
            path,
            socket: scratch.join("share.sock"),
        })
    }

    /// Starts a virtiofsd as our launcher does, but for its sandbox. Monitors connect to
    /// [`Share::socket`].
    pub(super) fn serve(&self) -> Result<Share> {
        let listener = UnixListener::bind(&self.socket)?;
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let started = Command::new(&self.program)
            .arg("--shared-dir")
            .arg(&self.path)
            .args(["--fd", &listener.as_raw_fd().to_string()])
            .args(["--sandbox", "none", "--cache", "auto", "--log-level", "off"])
            .stdin(Stdio::null())
            .spawn();
        let daemon =
            started.with_context(|| format!("{} could not be started", self.program.display()));
        let socket = self.socket.clone();
        daemon
            .map(|daemon| Share {
                daemon,
                socket: socket.clone(),
            })
            .inspect_err(|_| drop(fs::remove_file(&socket)))
    }
}

impl Share {
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn pid(&self) -> u32 {
        self.daemon.id()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // It may have ended with its connection.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
