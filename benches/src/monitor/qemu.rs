//! QEMU, without every device that the guest can do without.

use std::ffi::OsString;
use std::io::PipeWriter;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{COMMAND_LINE, Guest, Monitor, Started, on_path};

const PROGRAM: &str = "qemu-system-x86_64";

/// A machine of QEMU's.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: Option<PathBuf>,
    name: &'static str,
    machine: &'static str,
    /// What names of virtio devices for the machine's bus end in.
    bus: &'static str,
    /// The kernel's command line: where it need not look for PCI, as ours has it.
    pci: &'static str,
}

impl Qemu {
    pub(crate) fn microvm() -> Self {
        Self {
            program: on_path(PROGRAM),
            name: "qemu-microvm",
            machine: "microvm,pit=off,pic=off,rtc=off",
            bus: "device",
            pci: "pci=off",
        }
    }

    pub(crate) fn q35() -> Self {
        Self {
            program: on_path(PROGRAM),
            name: "qemu-q35",
            machine: "q35",
            bus: "pci",
            pci: "pci=lastbus=0,noearly",
        }
    }
}

impl Monitor for Qemu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        super::not_on_path(PROGRAM, self.program.as_ref())
    }

    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started> {
        let program = self.program.as_ref().context("QEMU is missing")?;
        let cpu = match guest.initramfs {
            Some(_) => "host",
            // It ends where KVM, in software, has no such register to write.
            None => "host,arch-capabilities=off",
        };
        let mut command = Command::new(program);
        command
            .args(["-M", self.machine, "-accel", "kvm", "-cpu", cpu])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-smp")
            .arg(guest.cpus.to_string())
            .arg("-m")
            .arg(format!("{}M", guest.memory_mib))
            .arg("-kernel")
            .arg(&guest.kernel)
            .arg("-append")
            .arg(format!(
                "{COMMAND_LINE} {} reboot=t -- {}",
                self.pci, guest.init
            ))
            .args(["-serial", "stdio"]);
        if let Some(initramfs) = &guest.initramfs {
            command.arg("-initrd").arg(initramfs);
            command.args(["-device", &format!("virtio-rng-{}", self.bus)]);
        }
        if let Some(disk) = &guest.disk {
            let mut drive = OsString::from("if=none,id=disk,format=raw,file=");
            drive.push(disk);
            command.arg("-drive").arg(drive);
            let device = format!("virtio-blk-{},drive=disk", self.bus);
            command.args(["-device", &device]);
        }
        if let Some(share) = &guest.share {
            // virtiofsd maps the guest's memory.
            let memory = guest.memory_mib;
            command.arg("-object");
            command.arg(format!(
                "memory-backend-memfd,id=ram,size={memory}M,share=on"
            ));
            command.args(["-machine", "memory-backend=ram"]);
            let mut socket = OsString::from("socket,id=share,path=");
            socket.push(share);
            command.arg("-chardev").arg(socket);
            let device = format!("vhost-user-fs-{},chardev=share,tag=share", self.bus);
            command.args(["-device", &device]);
        }
        command.stdout(serial);
        Started::spawn(command)
    }
}
