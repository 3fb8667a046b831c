//! One start of a monitor with a bare guest.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, bail};
use runcvm_vmm::control::{End, Event, FromMachine};
use runcvm_vmm::launch::now;

use super::{PHASES, guest};
use crate::monitor::{Guest, Monitor};
use crate::smaps;
use crate::usage::Usage;
use crate::watchdog::Watchdog;

/// Longer than any monitor takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// After this, a guest sleeps, and its monitor has nothing left to do.
const SETTLED: Duration = Duration::from_millis(1500);

/// What is measured; times are milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) wall: f64,
    pub(super) usage: Usage,
    pub(super) phases: [Option<f64>; PHASES.len()],
}

/// Starts `monitor` with a guest that ends at once, and waits for its end.
pub(super) fn run_once(monitor: &dyn Monitor, guest: &Guest) -> Result<Run> {
    // Nobody reads what the guest does not write.
    let (_serial, writer) = std::io::pipe()?;
    let before = Usage::of_children()?;
    let start = now();
    let mut started = monitor.start(guest, writer)?;
    let watchdog = Watchdog::new(started.process.id(), PATIENCE);
    let phases = match started.control.take() {
        Some(control) => phases(control, start)?,
        None => Default::default(),
    };
    let status = started.process.wait()?;
    let wall = milliseconds(start, now());
    drop(watchdog);
    if !status.success() {
        bail!("it ended with {status}");
    }
    let usage = Usage::of_children()?.since(before);
    Ok(Run {
        wall,
        usage,
        phases,
    })
}

/// When our monitor says that it reached each of [`PHASES`].
fn phases(control: UnixStream, start: u64) -> Result<[Option<f64>; PHASES.len()]> {
    let mut phases = [None; PHASES.len()];
    for line in BufReader::new(control).lines() {
        let FromMachine::Event(event) = serde_json::from_str(&line?)? else {
            continue;
        };
        let (phase, at) = match event {
            Event::KvmReady { at } => (0, at),
            Event::FirstEntry { at } => (1, at),
            Event::BootMark {
                mark: guest::MARK,
                at,
            } => (2, at),
            Event::Ended {
                end: End::PoweredOff,
                ..
            } => (3, now()),
            Event::BootMark { .. } => continue,
            Event::Ended { end, log } => bail!("the guest did not power off: {end:?} {log}"),
            Event::Failed { message } => bail!("{message}"),
        };
        phases[phase] = Some(milliseconds(start, at));
    }
    Ok(phases)
}

/// Bytes that `monitor` alone has while a guest sleeps, without the guest's memory.
pub(super) fn idle_memory(monitor: &dyn Monitor, guest: &Guest) -> Result<u64> {
    let (_serial, writer) = std::io::pipe()?;
    let mut started = monitor.start(guest, writer)?;
    std::thread::sleep(SETTLED);
    let memory = match started.process.try_wait()? {
        None => smaps::monitor(started.process.id(), guest.memory_mib),
        Some(status) => bail!("it ended with {status} while its guest slept"),
    };
    started.process.kill()?;
    started.process.wait()?;
    Ok(memory?)
}

fn milliseconds(from: u64, to: u64) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e3
}
