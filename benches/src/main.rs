//! `runcvm-bench`: measures runcvm beside other monitors, with the same guest, in turn.

mod boot;
mod choice;
mod compare;
mod console;
mod docker;
mod entries;
mod figures;
mod host;
mod initramfs;
mod io;
mod monitor;
mod progress;
mod setup;
mod smaps;
mod stats;
mod trace;
mod tracefs;
mod usage;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

/// Measure runcvm beside other monitors
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    Boot(boot::Options),
    Docker(docker::Options),
    Setup(setup::Options),
    Io(io::Options),
    Compare(compare::Options),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Boot(options) => boot::run(&options),
        Command::Docker(options) => docker::run(&options),
        Command::Setup(options) => setup::run(&options),
        Command::Io(options) => io::run(&options),
        Command::Compare(options) => compare::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runcvm-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
