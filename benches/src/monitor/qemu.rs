//! QEMU's microvm machine, without every device that it can do without.

use std::io::PipeWriter;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Guest, Monitor, Started, on_path};

/// `qemu-system-x86_64 -M microvm`.
#[derive(Debug)]
pub(crate) struct QemuMicrovm {
    program: Option<PathBuf>,
}

impl QemuMicrovm {
    pub(crate) fn new() -> Self {
        Self {
            program: on_path("qemu-system-x86_64"),
        }
    }
}

impl Monitor for QemuMicrovm {
    fn name(&self) -> &'static str {
        "qemu-microvm"
    }

    fn missing(&self) -> Option<String> {
        match self.program {
            Some(_) => None,
            None => Some("qemu-system-x86_64 is not in PATH".to_owned()),
        }
    }

    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started> {
        let program = self.program.as_ref().context("QEMU is missing")?;
        let process = Command::new(program)
            .args(["-M", "microvm,pit=off,pic=off,rtc=off"])
            .args(["-accel", "kvm", "-cpu", "host"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-smp")
            .arg(guest.cpus.to_string())
            .arg("-m")
            .arg(format!("{}M", guest.memory_mib))
            .arg("-kernel")
            .arg(&guest.kernel)
            .arg("-initrd")
            .arg(&guest.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1"])
            .args(["-serial", "stdio"])
            .args(["-device", "virtio-rng-device"])
            .stdin(Stdio::null())
            .stdout(serial)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        Ok(Started {
            process,
            control: None,
        })
    }
}
