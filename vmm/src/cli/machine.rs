//! `runcvm-vmm machine`: the machine process, started by its launcher and by nobody else.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, RawFd};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::machine;
use crate::spec::MachineSpec;

/// Run a machine (started by `run`)
#[derive(Debug, Args)]
pub(super) struct MachineArgs {
    /// Descriptor to read the machine's specification from
    #[arg(long, value_name = "N")]
    spec_fd: RawFd,
}

impl MachineArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        // The kernel named this process after the link that it was executed by.
        let _ = nix::sys::prctl::set_name(c"runcvm-vmm");
        // SAFETY: takes no pointer; tells whether the descriptor is open.
        let flags = unsafe { libc::fcntl(self.spec_fd, libc::F_GETFD) };
        ensure!(
            self.spec_fd > 2 && flags >= 0,
            "--spec-fd {} is no descriptor that a launcher passed: use `runcvm-vmm run`",
            self.spec_fd
        );
        // SAFETY: the descriptor is open, and the launcher gave it to this process to own;
        // nothing else here knows of it.
        let mut file = unsafe { File::from_raw_fd(self.spec_fd) };
        let mut json = Vec::new();
        file.read_to_end(&mut json)
            .context("The machine's specification cannot be read")?;
        drop(file);
        let spec: MachineSpec = serde_json::from_slice(&json)
            .context("The machine's specification cannot be understood")?;
        machine::run(spec)
    }
}
