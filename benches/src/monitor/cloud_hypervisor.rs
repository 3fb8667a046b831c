//! Cloud Hypervisor.

use std::ffi::OsString;
use std::io::PipeWriter;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{COMMAND_LINE, Guest, Monitor, Started, on_path};

const PROGRAM: &str = "cloud-hypervisor";

#[derive(Debug)]
pub(crate) struct CloudHypervisor {
    program: Option<PathBuf>,
}

impl CloudHypervisor {
    pub(crate) fn new() -> Self {
        Self {
            program: on_path(PROGRAM),
        }
    }
}

impl Monitor for CloudHypervisor {
    fn name(&self) -> &'static str {
        PROGRAM
    }

    fn missing(&self) -> Option<String> {
        super::not_on_path(PROGRAM, self.program.as_ref())
    }

    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started> {
        let program = self
            .program
            .as_ref()
            .context("Cloud Hypervisor is missing")?;
        // virtiofsd maps it.
        let shared = if guest.share.is_some() { "on" } else { "off" };
        let mut command = Command::new(program);
        command
            .arg("--cpus")
            .arg(format!("boot={}", guest.cpus))
            .arg("--memory")
            .arg(format!("size={}M,shared={shared}", guest.memory_mib))
            .arg("--kernel")
            .arg(&guest.kernel)
            .arg("--cmdline")
            .arg(format!("{COMMAND_LINE} -- {}", guest.init))
            .args(["--serial", "tty", "--console", "off"]);
        if let Some(initramfs) = &guest.initramfs {
            command.arg("--initramfs").arg(initramfs);
        }
        if let Some(disk) = &guest.disk {
            let mut value = OsString::from("path=");
            value.push(disk);
            command.arg("--disk").arg(value);
        }
        if let Some(share) = &guest.share {
            let mut value = OsString::from("tag=share,socket=");
            value.push(share);
            command.arg("--fs").arg(value);
        }
        // It warns in each run of kernels without core scheduling.
        command.stdout(serial).stderr(Stdio::null());
        Started::spawn(command)
    }
}
