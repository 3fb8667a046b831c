//! The first process of a container: it makes the container a jail for a machine, prepares
//! what the machine needs, and is its launcher until it ends.
//!
//! runc starts it by a descriptor, in the image's tree. It first builds the jail ([`jail`]),
//! then executes itself from there, so that it has a name and a place like other programs,
//! and goes on in [`second_stage`].

mod disks;
pub(crate) mod jail;
mod mounts;
mod sockets;
mod spec;

use std::ffi::{CString, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::execve;
use runcvm_vmm::cli;
use runcvm_vmm::launch::{self, FAILED, Io, Outcome};
pub(crate) use spec::process;

use crate::container::{ContainerSpec, PREFIX_FD, PROGRAM_FD};
use crate::inherited;
use crate::network;
use crate::options::Break;

/// The verb.
pub(crate) const VERB: &str = "supervise";

/// The machine's name; there is one in a container.
pub(crate) const MACHINE: &str = "vm";

const SECOND_STAGE: &str = "--stage2";

/// Runs the container's machine and gives the status of its workload. `started` is when this
/// process began ([`launch::now`]).
pub(crate) fn run(args: &[OsString], started: u64) -> ExitCode {
    let result = if args.first().is_some_and(|arg| arg == SECOND_STAGE) {
        second_stage(started)
    } else {
        first_stage()
    };
    match result {
        Ok(outcome) => report(&outcome),
        Err(error) => {
            complain(&cli::sentence(&error));
            ExitCode::from(FAILED)
        }
    }
}

/// Says what is to be said of a process in the machine, and gives its exit status.
pub(crate) fn report(outcome: &Outcome) -> ExitCode {
    if let Some(message) = &outcome.message {
        complain(&cli::without_numbers(message));
    }
    if let Some(log) = &outcome.kernel_log {
        let _ = writeln!(std::io::stderr(), "{log}");
    }
    ExitCode::from(outcome.status)
}

/// One line on stderr, whether or not anybody reads it.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "runcvm: {message}");
}

/// Builds the jail and becomes the second stage in it.
fn first_stage() -> Result<Outcome> {
    // A container's first process loses signals that it does not handle, unless they are
    // blocked: then they wait for the launcher.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let (spec, message) = inherited::message::<ContainerSpec>()?;
    let prefix = inherited::take(PREFIX_FD)?;
    let _program = inherited::take(PROGRAM_FD)?;
    jail::enter(&spec, &prefix)?;
    inherited::keep(&message)?;
    let program = c"/opt/runcvm/bin/runcvm-runtime";
    let string = |text: &str| CString::new(text).expect("without zero bytes");
    let args = ["runcvm-runtime", VERB, SECOND_STAGE].map(string);
    let env = [
        "RUNCVM_HOME=/opt/runcvm",
        "RUNCVM_RUN_DIR=/run/runcvm",
        "PATH=/bin",
    ]
    .map(string);
    match execve(program, &args, &env)
        .with_context(|| format!("{} cannot be executed", program.to_string_lossy()))? {}
}

/// Prepares the machine and runs it.
fn second_stage(started: u64) -> Result<Outcome> {
    let (container, message) = inherited::message::<ContainerSpec>()?;
    drop(message);
    for warning in &container.warnings {
        complain(&format!("warning: {warning}"));
    }
    let moments = &container.options.breaks;
    break_at(moments, Break::PreNet)?;
    let network = network::set_up(Path::new(jail::IMAGE), None)?;
    break_at(moments, Break::PostNet)?;
    let launch = spec::launch(&container, network)?;
    break_at(moments, Break::PreMachine)?;
    let io = Io::inherited(launch.process.stdin).context("The standard streams cannot be used")?;
    let outcome = launch::run(&launch, io, started)?;
    if container.options.timings {
        complain(&format!(
            "timings: {}",
            serde_json::to_string(&outcome.timings)?
        ));
    }
    Ok(outcome)
}

/// Gives the user a shell in the jail if they want one at this moment, and waits for its end.
fn break_at(moments: &[Break], moment: Break) -> Result<()> {
    if !moments.contains(&moment) {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        complain("warning: RUNCVM_BREAK has no effect without a terminal (docker run -it)");
        return Ok(());
    }
    complain(&format!(
        "{}: the machine is not started yet; this is a shell beside it, which ends with exit",
        moment.name()
    ));
    let mut shell = Command::new("/bin/sh");
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe { shell.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
    shell.status().context("The shell cannot be started")?;
    Ok(())
}
