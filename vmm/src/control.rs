//! What the launcher and the machine process say to each other, and what others may say to
//! a machine through its control socket: one JSON object a line.
//!
//! ```json
//! {"command":"resize","rows":24,"columns":80}
//! {"reply":"ok"}
//! {"event":"ended","end":{"how":"powered-off"},"log":""}
//! ```

use serde::{Deserialize, Serialize};

/// A command to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How the machine is; answered with [`Reply::Status`].
    Status,
    /// Stop all vCPUs until `Resume`.
    Pause,
    /// Let the vCPUs run again; the guest's clock goes on from host time.
    Resume,
    /// Ask the workload to end (SIGTERM), and kill the machine if it has not after
    /// `timeout_ms`. Answered when the workload was asked. For the launcher only.
    Stop { timeout_ms: u64 },
    /// End the machine at once.
    Kill,
    /// The console hvc0 changed its size.
    Resize { rows: u16, columns: u16 },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Ok,
    /// The answer to [`Request::Status`].
    Status(Status),
    /// Not done, and why.
    Error { message: String },
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub state: State,
    pub cpus: u8,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Process ID of the machine process.
    pub pid: u32,
    /// vCPU exits to the monitor since the start, by reason.
    pub exits: std::collections::BTreeMap<String, u64>,
    /// Memory of the machine process in bytes that is not the guest's (sum of Pss).
    pub overhead: u64,
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Starting,
    Running,
    Paused,
}

/// What the machine process tells the launcher unasked. Times are nanoseconds of
/// `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The virtual machine, its memory and its vCPUs exist.
    KvmReady { at: u64 },
    /// The first vCPU is about to enter the guest.
    FirstEntry { at: u64 },
    /// The guest wrote a [`runcvm_protocol::BootMark`].
    BootMark { mark: u8, at: u64 },
    /// The machine ended. Last: the process exits after it.
    Ended {
        end: End,
        /// The last lines of the serial port.
        log: String,
    },
    /// The machine could not be built. Last.
    Failed { message: String },
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum End {
    /// The guest went to ACPI state S5.
    PoweredOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked (and then reset, as it is told to).
    Panicked,
    /// A vCPU shut down: a fault while handling a fault while handling a fault.
    TripleFault {
        /// One line on where it was. Missing where KVM has reset the vCPU already, as it does
        /// on AMD processors.
        registers: Option<String>,
    },
    /// KVM could not go on.
    VcpuFailed { reason: String },
    /// The launcher or a user asked for it.
    Killed,
}

/// One line from the machine process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromMachine {
    Event(Event),
    Reply(Reply),
}
