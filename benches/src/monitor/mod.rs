//! The monitors that are compared, each able to start the same guest.

mod qemu;
mod runcvm;

use std::io::PipeWriter;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::Result;

pub(crate) use qemu::QemuMicrovm;
pub(crate) use runcvm::Runcvm;

/// The guest that every monitor starts.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Uncompressed ELF vmlinux with a PVH note.
    pub(crate) kernel: PathBuf,
    /// A cpio archive with `/init`.
    pub(crate) initramfs: PathBuf,
    /// Number of vCPUs.
    pub(crate) cpus: u8,
    /// Guest memory in MiB.
    pub(crate) memory_mib: u32,
}

/// A monitor that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its process.
    pub(crate) process: Child,
    /// A connection that it ends with, where it has one.
    pub(crate) control: Option<UnixStream>,
}

/// A monitor as a command.
pub(crate) trait Monitor {
    /// The name by which it is chosen and reported.
    fn name(&self) -> &'static str;

    /// What is missing on this host, if anything.
    fn missing(&self) -> Option<String>;

    /// Starts `guest` with its serial port on `serial`.
    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started>;
}

/// The first executable called `name` in `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}
