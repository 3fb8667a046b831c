//! The machine process: from a [`MachineSpec`] to a running guest, and to its end.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use thiserror::Error;

use crate::boot::{BootError, CommandLineError};
use crate::control::Event;
use crate::cpu::Threads;
use crate::kvm::KvmError;
use crate::kvm::probe::{self, ProbeError};
use crate::memory::MemoryError;
use crate::spec::MachineSpec;

mod assembly;
mod channel;
mod devices;
mod ending;
mod overhead;
mod sandbox;
mod serve;

use assembly::Machine;
use channel::Channel;
use devices::DeviceError;
use overhead::Overhead;
use sandbox::SandboxError;
use serve::Server;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    #[error("This host cannot run a machine")]
    Host(#[from] ProbeError),
    #[error("A machine has 1 to 64 vCPUs, not {0}")]
    BadCpus(u8),
    #[error("Cannot make the guest's memory")]
    Memory(#[from] MemoryError),
    #[error("Cannot make the virtual machine")]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("Cannot shut the machine process in")]
    Sandbox(#[from] SandboxError),
    #[error("The host refused {what}")]
    Resource {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Lines of the serial port that are told with the end: a panic's first line and all that the
/// kernel says after it, however long its trace is.
const LOG_LINES: usize = 200;

/// Exit statuses of the machine process; what happened is told on the control socket.
const ENDED: i32 = 0;
const FAILED: i32 = 1;

/// Builds the machine, runs it, and ends the process when it ends.
///
/// `spec` names file descriptors of this process, which are the machine's from now on.
pub fn run(spec: MachineSpec) -> ! {
    // Another arena for a busy thread would be sized by a look into /sys, which the sandbox
    // forbids; and devices allocate too little to contend.
    // SAFETY: no other thread runs yet that could allocate meanwhile.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let channel = Arc::new(Channel::new(owned(spec.control).into()));
    let message = match run_to_end(&spec, &channel) {
        Ok(never) => match never {},
        Err(e) => with_causes(&e),
    };
    channel.event(&Event::Failed { message });
    exit(FAILED)
}

/// Ends the process. Nothing is unmapped or closed one by one, which for a guest's memory and
/// KVM's file descriptors would take the longest of all.
fn exit(status: i32) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(status) }
}

fn run_to_end(spec: &MachineSpec, channel: &Arc<Channel>) -> Result<Infallible, MachineError> {
    // The launcher has looked whether a kernel can run here.
    let kvm = probe::open()?;
    let machine = Machine::assemble(&kvm, spec, channel)?;
    channel.event(&Event::KvmReady { at: now() });
    let Machine {
        vcpus,
        buses,
        devices,
        serial,
        ending,
        ..
    } = machine;
    let report = ending.reporter();
    let overhead = Overhead::open().ok();
    sandbox::enter(channel.as_fd(), spec.root.as_deref())?;
    channel.event(&Event::FirstEntry { at: now() });
    let threads = Threads::start(vcpus, &buses, &report).map_err(|source| {
        let what = "a thread for a vCPU";
        MachineError::Resource { what, source }
    })?;
    let console = devices.console.as_ref();
    let end = Server::new(spec, channel, &ending, &threads, console, overhead).serve();
    threads.stop();
    for transport in &devices.transports {
        transport.shutdown();
    }
    let log = serial.last_lines(LOG_LINES);
    channel.event(&Event::Ended { end, log });
    exit(ENDED)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| std::time::Duration::from(time).as_nanos())
        .ok()
        .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
        .unwrap_or(0)
}

/// An error and its causes as one sentence.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Takes a file descriptor of the specification.
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: The launcher opened it for this process and named it once, for this use.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
