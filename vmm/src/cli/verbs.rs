//! Verbs that ask a running machine something: `stop`, `kill`, `pause`, `resume`, `status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::control::Request;
use crate::launch::client::Client;

/// How long a machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// End a machine: SIGTERM to its command, and after a while kill it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm stop box
  runcvm-vmm stop --time 60 database")]
pub(super) struct StopArgs {
    /// Seconds that the command may take to end
    #[arg(long, short = 't', value_name = "SECONDS", default_value_t = 10)]
    time: u32,

    /// The machine's name
    name: String,
}

/// End a machine at once
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm kill box")]
pub(super) struct KillArgs {
    /// The machine's name
    name: String,
}

/// Stop all processors of a machine until it is resumed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm pause box")]
pub(super) struct PauseArgs {
    /// The machine's name
    name: String,
}

/// Let a paused machine go on
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm resume box")]
pub(super) struct ResumeArgs {
    /// The machine's name
    name: String,
}

/// Show how a machine is, as JSON
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm status box
  runcvm-vmm status box | jq .exits")]
pub(super) struct StatusArgs {
    /// The machine's name
    name: String,
}

impl StopArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let timeout_ms = u64::from(self.time) * 1000;
        end(&self.name, Request::Stop { timeout_ms })
    }
}

impl KillArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        end(&self.name, Request::Kill)
    }
}

impl PauseArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        ask(&self.name, Request::Pause)
    }
}

impl ResumeArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        ask(&self.name, Request::Resume)
    }
}

impl StatusArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let status = Client::connect(&self.name)?.status(PATIENCE)?;
        let text = serde_json::to_string_pretty(&status)? + "\n";
        super::print(&text).context("The status cannot be written")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn ask(name: &str, request: Request) -> Result<ExitCode> {
    Client::connect(name)?.ask(request, PATIENCE)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the machine to end, and waits until it has.
fn end(name: &str, request: Request) -> Result<ExitCode> {
    let mut client = Client::connect(name)?;
    client.ask(request, PATIENCE)?;
    client.wait_for_end()?;
    Ok(ExitCode::SUCCESS)
}
