//! One boot.

use std::io::{PipeReader, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runcvm_vmm::control::{Event, FromMachine};
use runcvm_vmm::launch::now;

use super::CLOCKS;
use crate::console::listen;
use crate::entries::{Counts, Entries};
use crate::monitor::{Guest, Monitor};
use crate::smaps;
use crate::usage::Usage;

/// Longer than any boot, even on an emulated host.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured of a boot.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    /// Milliseconds from the start of the monitor to each of [`CLOCKS`].
    pub(super) clocks: [Option<f64>; CLOCKS.len()],
    pub(super) usage: Usage,
    pub(super) exits: Option<Counts>,
}

/// How a boot is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// By KVM's tracepoints.
    pub(super) trace: bool,
    /// The monitor is stopped once PID 1 runs, and its memory read.
    pub(super) memory: bool,
}

/// Boots `guest`; what was measured, and the monitor's own bytes of memory if they were wanted.
pub(super) fn boot(monitor: &dyn Monitor, guest: &Guest, look: Look) -> Result<(Boot, u64)> {
    let (reader, writer) = std::io::pipe()?;
    let trace = match look.trace {
        true => Some(Entries::start()?),
        false => None,
    };
    let before = Usage::of_children()?;
    let start = now();
    let mut started = monitor.start(guest, writer)?;
    let said = hear(reader, started.process.id(), guest, look.memory);
    if said.is_err() {
        let _ = started.process.kill();
    }
    let status = started.process.wait()?;
    let gone = now();
    let said = said?;
    if !status.success() {
        bail!("it ended with {status}");
    }
    let usage = Usage::of_children()?.since(before);
    let entry = match &trace {
        Some(trace) => trace.first(),
        None => started.control.as_mut().and_then(first_entry),
    };
    // The guest's clock tells how long before that line its kernel started it.
    let kernel = said.ready.checked_sub(said.uptime);
    let times = [
        entry,
        kernel,
        Some(said.ready),
        Some(said.command),
        Some(said.exit),
        Some(gone),
    ];
    let milliseconds = |at: u64| Duration::from_nanos(at.saturating_sub(start)).as_secs_f64() * 1e3;
    let boot = Boot {
        clocks: times.map(|at| at.map(milliseconds)),
        usage,
        exits: trace.map(|trace| trace.counts()),
    };
    Ok((boot, said.memory))
}

/// When the guest's PID 1 said what.
#[derive(Default)]
struct Said {
    ready: u64,
    /// Nanoseconds of its kernel's clock.
    uptime: u64,
    command: u64,
    exit: u64,
    memory: u64,
}

fn hear(port: PipeReader, pid: u32, guest: &Guest, memory: bool) -> Result<Said> {
    let mut said = Said::default();
    let log = listen(port, pid, PATIENCE, |words, at| {
        match words.split_once(' ').unwrap_or((words, "")) {
            ("ready", uptime) => {
                said.ready = at;
                said.uptime = uptime.parse().unwrap_or(0);
                if memory {
                    said.memory = stopped(pid, || smaps::monitor(pid, guest.memory_mib))?;
                }
            }
            ("command", _) => said.command = at,
            ("exit", _) => said.exit = at,
            _ => {}
        }
        Ok(())
    })?;
    if said.exit == 0 || said.command == 0 {
        bail!("the guest's PID 1 did not come to its end; its serial port:\n{log}");
    }
    Ok(said)
}

/// Does something while the process `pid` stands still.
fn stopped<T>(pid: u32, look: impl FnOnce() -> std::io::Result<T>) -> Result<T> {
    let process = Pid::from_raw(i32::try_from(pid).context("process IDs are positive")?);
    kill(process, Signal::SIGSTOP)?;
    let seen = look();
    kill(process, Signal::SIGCONT)?;
    Ok(seen?)
}

/// When our monitor entered the guest, by what it said until its end.
fn first_entry(control: &mut UnixStream) -> Option<u64> {
    let mut said = String::new();
    control.read_to_string(&mut said).ok()?;
    said.lines()
        .find_map(|line| match serde_json::from_str(line) {
            Ok(FromMachine::Event(Event::FirstEntry { at })) => Some(at),
            _ => None,
        })
}
