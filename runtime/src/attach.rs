//! A further process in a container's machine, as `exec` has it: this one stands for it beside
//! the machine, with its streams, signals and exit status.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use runcvm_vmm::cli;
use runcvm_vmm::launch::{self, FAILED, Io, Outcome, rundir};

use crate::container::{self, PROGRAM_FD};
use crate::inherited;
use crate::supervise::{self, MACHINE};

/// The verb.
pub(crate) const VERB: &str = "attach";

/// How long a container may take from its start until its machine is there.
const PREPARATION: Duration = Duration::from_secs(60);

/// Between two looks for it.
const RETRY: Duration = Duration::from_millis(20);

/// Runs the process and gives its status.
pub(crate) fn run() -> ExitCode {
    match attach() {
        Ok(outcome) => supervise::report(&outcome),
        Err(error) => {
            supervise::complain(&cli::sentence(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn attach() -> Result<Outcome> {
    let (message, _) = inherited::message::<container::ExecSpec>()?;
    let _program = inherited::take(PROGRAM_FD)?;
    let spec = launch::ExecSpec {
        name: MACHINE.into(),
        process: supervise::process(&message.process)?,
    };
    let deadline = Instant::now() + PREPARATION;
    loop {
        let io =
            Io::inherited(spec.process.stdin).context("The standard streams cannot be used")?;
        match launch::exec(&spec, io) {
            // The container's first process may still be at work on the jail, whose root
            // becomes ours too.
            Err(launch::Error::Run(rundir::Error::NotRunning(_))) if Instant::now() < deadline => {
                std::thread::sleep(RETRY);
            }
            result => return Ok(result?),
        }
    }
}
