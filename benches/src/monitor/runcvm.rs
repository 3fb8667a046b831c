//! Our own monitor: the machine process alone, as a launcher would start it.

use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use runcvm_vmm::spec::{DeviceSpec, InitramfsPart, MachineSpec, Transport};

use super::{Guest, Monitor, Started, on_path};

/// `runcvm-vmm machine`, with a virtio transport of choice.
#[derive(Debug)]
pub(crate) struct Runcvm {
    program: Option<PathBuf>,
    name: &'static str,
    transport: Transport,
}

impl Runcvm {
    /// The `runcvm-vmm` beside this program, else the one in `PATH`.
    pub(crate) fn new(name: &'static str, transport: Transport) -> Self {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|me| Some(me.parent()?.join("runcvm-vmm")))
            .filter(|path| super::is_file(path));
        Self {
            program: beside.or_else(|| on_path("runcvm-vmm")),
            name,
            transport,
        }
    }
}

impl Monitor for Runcvm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        match self.program {
            Some(_) => None,
            None => Some("runcvm-vmm is neither beside runcvm-bench nor in PATH".to_owned()),
        }
    }

    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started> {
        let program = self.program.as_ref().context("runcvm-vmm is missing")?;
        let (control, theirs) = UnixStream::pair()?;
        let (serial, theirs) = (inherited(serial)?, inherited(theirs)?);
        let mut devices: Vec<_> = guest.initramfs.iter().map(|_| DeviceSpec::Rng).collect();
        let disk = guest.disk.as_ref().map(open).transpose()?;
        if let Some(disk) = &disk {
            devices.push(DeviceSpec::Block {
                fd: disk.as_raw_fd(),
                read_only: false,
                id: String::new(),
                queues: 1,
            });
        }
        let share = guest.share.as_ref().map(UnixStream::connect).transpose()?;
        let share = share.map(inherited).transpose()?;
        if let Some(share) = &share {
            devices.push(DeviceSpec::Fs {
                tag: "share".to_owned(),
                socket: share.as_raw_fd(),
            });
        }
        let initramfs = guest.initramfs.clone().into_iter();
        let spec = MachineSpec {
            name: "bench".to_owned(),
            cpus: guest.cpus,
            memory: u64::from(guest.memory_mib) << 20,
            kernel: guest.kernel.clone(),
            initramfs: initramfs.map(InitramfsPart::Archive).collect(),
            append: format!("-- {}", guest.init),
            verbose_kernel: false,
            transport: self.transport,
            devices,
            serial: Some(serial.as_raw_fd()),
            huge_pages: false,
            root: None,
            control: theirs.as_raw_fd(),
        };
        let (reader, mut writer) = std::io::pipe()?;
        let reader = inherited(reader)?;
        writer.write_all(&serde_json::to_vec(&spec)?)?;
        drop(writer);
        let mut command = Command::new(program);
        command.args(["machine", "--spec-fd", &reader.as_raw_fd().to_string()]);
        Ok(Started {
            control: Some(control),
            ..Started::spawn(command)?
        })
    }
}

fn open(disk: &PathBuf) -> Result<File> {
    let file = File::options().read(true).write(true).open(disk);
    inherited(file.with_context(|| format!("{} cannot be opened", disk.display()))?)
}

/// `fd`, kept open across `execve`.
fn inherited<T: Into<std::os::fd::OwnedFd>>(fd: T) -> Result<File> {
    let fd = fd.into();
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(File::from(fd))
}
