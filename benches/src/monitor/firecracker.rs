//! Firecracker, configured by a file, without its API.

use std::io::{PipeWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use super::{COMMAND_LINE, Guest, Monitor, Started, on_path};

const PROGRAM: &str = "firecracker";

#[derive(Debug)]
pub(crate) struct Firecracker {
    program: Option<PathBuf>,
}

impl Firecracker {
    pub(crate) fn new() -> Self {
        Self {
            program: on_path(PROGRAM),
        }
    }
}

impl Monitor for Firecracker {
    fn name(&self) -> &'static str {
        PROGRAM
    }

    fn missing(&self) -> Option<String> {
        super::not_on_path(PROGRAM, self.program.as_ref())
    }

    fn start(&self, guest: &Guest, serial: PipeWriter) -> Result<Started> {
        let program = self.program.as_ref().context("Firecracker is missing")?;
        // It has no power-off: the guest's PID 1 is told to reset the machine.
        let mut boot = json!({
            "kernel_image_path": guest.kernel,
            "boot_args": format!("{COMMAND_LINE} reboot=k pci=off i8042.noaux i8042.nomux -- reset {}", guest.init),
        });
        let mut devices = json!(null);
        if let Some(initramfs) = &guest.initramfs {
            boot["initrd_path"] = json!(initramfs);
            devices = json!({});
        }
        let drives: Vec<_> = guest
            .disk
            .iter()
            .map(|disk| {
                json!({
                    "drive_id": "disk",
                    "path_on_host": disk,
                    "is_root_device": false,
                    "is_read_only": false,
                })
            })
            .collect();
        let config = json!({
            "boot-source": boot,
            "drives": drives,
            "machine-config": { "vcpu_count": guest.cpus, "mem_size_mib": guest.memory_mib },
            "entropy": devices,
        });
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&serde_json::to_vec(&config)?)?;
        let mut command = Command::new(program);
        command
            .args(["--no-api", "--level", "Error", "--config-file"])
            .arg(file.path())
            .stdout(serial)
            .stderr(Stdio::null());
        Ok(Started {
            _file: Some(file),
            ..Started::spawn(command)?
        })
    }
}
