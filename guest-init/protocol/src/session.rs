//! A session: one process in the guest, its streams and its end.
//!
//! Streams share a connection, so each has a window: a sender may have at most [`WINDOW`]
//! bytes of a stream under way that the receiver has not consumed, and the receiver says
//! with `Consumed` what it has. No stream can hold up another or a signal, and neither side
//! ever buffers more than a window.
//!
//! ```text
//! workload:  guest → Hello, AskTime, [OnConsole], Started, Output…, OutputEnd…, Exited
//!            host → Time, Stdin…, …
//! exec:      host → Start; guest → Started | Failed, Output…, OutputEnd…, Exited
//! ```
//! `Exited` is last: all output was sent before it.

use serde::{Deserialize, Serialize};

use crate::config::{Process, WindowSize};

/// Bytes of one stream that may be under way.
pub const WINDOW: u32 = 256 * 1024;

/// Greatest number of data bytes in one message.
pub const MAX_DATA: usize = 64 * 1024;

/// An output stream of a process. A process with a terminal has `Stdout` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    Stdout,
    Stderr,
}

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Run this process. First and once, on a connection to the agent.
    Start(Box<Process>),
    /// Bytes for its stdin.
    Stdin(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Its stdin ends here.
    StdinEnd,
    /// The host consumed this many bytes of an output stream.
    Consumed(Output, u32),
    /// The terminal changed its size.
    Resize(WindowSize),
    /// Send the process this signal (Linux x86-64 number).
    Signal(u8),
    /// Nobody reads this output stream any more: the guest closes its end, so that a process
    /// that writes to it gets `EPIPE`, and sends nothing more of it but `OutputEnd`. Does
    /// nothing to a terminal.
    OutputClosed(Output),
    /// The answer to [`ToHost::AskTime`]: the host's `CLOCK_REALTIME` in nanoseconds.
    Time { unix_ns: u64 },
}

/// From the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// First on the workload's session: PID 1 is up, this many nanoseconds after the kernel
    /// started its clock.
    Hello { uptime_ns: u64 },
    /// The process runs, with this process ID in the workload's PID namespace.
    Started { pid: u32 },
    /// The process could not be started: the status to exit with (125 for a bad user,
    /// working directory or mount, 126 not executable, 127 not found) and a sentence that
    /// says why. Last.
    Failed { status: u8, message: String },
    /// Bytes of an output stream.
    Output(Output, #[serde(with = "serde_bytes")] Vec<u8>),
    /// An output stream ends here.
    OutputEnd(Output),
    /// The guest's process consumed this many bytes of stdin.
    StdinConsumed(u32),
    /// The process ended. Last; on the workload's session filesystems are synced by now and
    /// the machine may be switched off.
    Exited(ExitStatus),
    /// The process has the console hvc0 for its streams, not this session: an init system
    /// that is the machine's PID 1. Before `Started`.
    OnConsole,
    /// What time is it? On the workload's session, before the process is started, and now and
    /// then from there on, once the last answer is there.
    AskTime,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned this status.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The status that a shell would show: 128 + the signal's number for a signal.
    pub fn shell_status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}
