//! The monitors that are compared, each able to start the same guest.

mod cloud_hypervisor;
mod firecracker;
mod qemu;
mod runcvm;

use std::io::PipeWriter;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use runcvm_vmm::spec::Transport;
use tempfile::NamedTempFile;

use cloud_hypervisor::CloudHypervisor;
use firecracker::Firecracker;
use qemu::Qemu;
use runcvm::Runcvm;

/// The kernel's command line for other monitors than ours, without how it is to reset: what
/// ours has, as far as it makes for a fast boot.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check \
    random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1";

/// The guest that every monitor starts.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Uncompressed ELF vmlinux with a PVH note.
    pub(crate) kernel: PathBuf,
    /// A cpio archive with `/init`. None: the kernel is a program of its own, which has no use
    /// for devices either.
    pub(crate) initramfs: Option<PathBuf>,
    /// A raw file, the first disk.
    pub(crate) disk: Option<PathBuf>,
    /// The socket of a virtiofsd, whose directory has the tag "share".
    pub(crate) share: Option<PathBuf>,
    /// Arguments of `/init`.
    pub(crate) init: &'static str,
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
    /// Where ours says how it gets on, and what it ends with.
    pub(crate) control: Option<UnixStream>,
    /// Something that it reads.
    _file: Option<NamedTempFile>,
}

impl Started {
    /// Starts `command`, with nothing to read.
    fn spawn(mut command: Command) -> Result<Self> {
        let process = command.stdin(Stdio::null()).spawn();
        let program = command.get_program();
        Ok(Self {
            process: process
                .with_context(|| format!("{} could not be started", program.display()))?,
            control: None,
            _file: None,
        })
    }
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

/// Those of `names` that are installed; what is said of the others goes to stderr.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Box<dyn Monitor>>> {
    let mut monitors: Vec<Box<dyn Monitor>> = Vec::new();
    for name in names {
        let monitor: Box<dyn Monitor> = match name.as_str() {
            "runcvm" => Box::new(Runcvm::new("runcvm", Transport::Pci)),
            "runcvm-mmio" => Box::new(Runcvm::new("runcvm-mmio", Transport::Mmio)),
            "qemu-microvm" => Box::new(Qemu::microvm()),
            "qemu-q35" => Box::new(Qemu::q35()),
            "firecracker" => Box::new(Firecracker::new()),
            "cloud-hypervisor" => Box::new(CloudHypervisor::new()),
            other => bail!(
                "--vmm {other}: known monitors are runcvm, runcvm-mmio, qemu-microvm, qemu-q35, \
                 firecracker and cloud-hypervisor"
            ),
        };
        match monitor.missing() {
            None => monitors.push(monitor),
            Some(why) => eprintln!("runcvm-bench: {name} is left out: {why}"),
        }
    }
    if monitors.is_empty() {
        bail!("none of the monitors is installed");
    }
    Ok(monitors)
}

fn not_on_path(name: &str, found: Option<&PathBuf>) -> Option<String> {
    match found {
        Some(_) => None,
        None => Some(format!("{name} is not in PATH")),
    }
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
