//! `runcvm-vmm doctor`: what this host has and lacks, one line each, and what to do about it.

mod checks;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

/// Explain whether this host can run machines, and how well
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm doctor

Exit status: 0 if machines can run, 1 if something fails.")]
pub(super) struct DoctorArgs {}

impl DoctorArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let findings = checks::all();
        let text: String = findings.iter().map(Finding::to_string).collect();
        super::print(&text).context("The findings cannot be written")?;
        let failed = findings.iter().any(|f| f.level == Level::Fail);
        Ok(ExitCode::from(u8::from(failed)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Ok,
    /// Machines run, but slower or with less.
    Warn,
    /// Machines cannot run.
    Fail,
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// The thing.
    what: &'static str,
    /// How it is, and what to do if that is not good.
    text: String,
}

impl Finding {
    fn new(level: Level, what: &'static str, text: impl Into<String>) -> Self {
        Self {
            level,
            what,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        writeln!(f, "{level:<5} {:<14} {}", self.what, self.text)
    }
}
