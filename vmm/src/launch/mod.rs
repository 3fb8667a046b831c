//! The launcher: prepares what a machine needs, starts the machine process, relays the user's
//! streams, and cleans up when either ends.
//!
//! [`run`] boots a machine and returns how its workload ended; [`exec`] runs a further command
//! in a running machine. Both block, and both want to be called by a process with one thread:
//! children are tied to the life of the thread that started them.

mod child;
pub mod client;
mod config;
mod console;
mod control;
pub mod disk;
mod exec;
mod forward;
pub mod host;
pub mod kernel;
mod lines;
pub mod net;
mod orphans;
mod patience;
mod poll;
pub(crate) mod privileges;
mod process;
mod random;
mod relay;
pub mod rundir;
mod sandbox;
pub mod share;
mod signals;
pub mod spec;
mod start;
mod streams;
mod supervise;
pub mod terminal;
mod timings;
mod watcher;

use std::io;

use thiserror::Error;

pub use exec::{ExecSpec, exec, workload_of};
pub use spec::{LaunchSpec, MountSpec};
pub use start::run;
pub use streams::Io;
pub use timings::{Timings, now};

use crate::control::Status;

/// How a workload ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The status to exit with: the command's, or 128 + the number of the signal that ended
    /// it; 125 if the machine failed it.
    pub status: u8,
    /// What went wrong, in one sentence.
    pub message: Option<String>,
    /// The last lines that the guest's kernel logged, if it failed.
    pub kernel_log: Option<String>,
    /// When the phases began.
    pub timings: Timings,
    /// What the machine used, shortly before its end, if that was asked for.
    pub usage: Option<Status>,
}

/// The exit status for failures of runcvm itself, as docker has it.
pub const FAILED: u8 = 125;

/// Why there was no workload, or nothing is known of its end.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Run(#[from] rundir::Error),
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error(transparent)]
    Share(#[from] share::Error),
    #[error(transparent)]
    Disk(#[from] disk::Error),
    #[error(transparent)]
    Net(#[from] net::Error),
    #[error("{0} is not installed: install runcvm, or set RUNCVM_HOME to where it is")]
    NotInstalled(std::path::PathBuf),
    #[error("The command and its environment are too long")]
    TooLong(#[source] runcvm_protocol::frame::FrameError),
    #[error("The machine \"{0}\" did not take a command within a minute")]
    NoAgent(String),
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
}

/// Adds what failed to an error of the system.
fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::System(what, error.into())
}

/// A name for a machine that was given none.
pub fn random_name() -> io::Result<String> {
    random::name()
}
