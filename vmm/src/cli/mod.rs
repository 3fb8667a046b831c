//! The command line.

mod doctor;
mod exec;
mod list;
mod machine;
mod process;
mod run;
mod values;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::launch::{FAILED, Outcome, Timings, terminal};

/// Boots a directory as a virtual machine, and runs a command in it as if locally.
///
/// Exit status: the command's own; 128 + N if signal N ended it; 126 if it could not be
/// executed; 127 if it was not found; 125 if runcvm itself failed, or the guest's kernel did.
#[derive(Debug, Parser)]
#[command(name = "runcvm-vmm", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::RunArgs>),
    Exec(exec::ExecArgs),
    List(list::ListArgs),
    Stop(verbs::StopArgs),
    Kill(verbs::KillArgs),
    Pause(verbs::PauseArgs),
    Resume(verbs::ResumeArgs),
    Status(verbs::StatusArgs),
    Doctor(doctor::DoctorArgs),
    #[command(hide = true)]
    Machine(machine::MachineArgs),
}

/// Runs the program. `started` is when it was executed ([`crate::launch::now`]).
pub fn main(args: impl IntoIterator<Item = OsString>, started: u64) -> ExitCode {
    terminal::restore_on_panic();
    let verb = match Cli::try_parse_from(args) {
        Ok(cli) => cli.verb,
        Err(e) => return refuse(&e),
    };
    let result = match verb {
        Verb::Run(args) => args.run(started),
        Verb::Exec(args) => args.run(),
        Verb::List(args) => args.run(),
        Verb::Stop(args) => args.run(),
        Verb::Kill(args) => args.run(),
        Verb::Pause(args) => args.run(),
        Verb::Resume(args) => args.run(),
        Verb::Status(args) => args.run(),
        Verb::Doctor(args) => args.run(),
        Verb::Machine(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        complain(&sentence(&error));
        ExitCode::from(FAILED)
    })
}

/// One line on stderr, whoever reads it.
fn complain(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "runcvm-vmm: {message}");
}

/// Writes what a verb was asked for. That nobody reads it is no error.
fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// An error and its causes as one sentence.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let text = without_numbers(&cause.to_string());
        // Errors that stand for their source show its text twice.
        if sentence.is_empty() {
            sentence = text;
        } else if !sentence.ends_with(&text) {
            sentence.push_str(": ");
            sentence.push_str(&text);
        }
    }
    capitalised(&sentence)
}

/// The message without the numbers of errors, which the standard library adds to their texts.
pub fn without_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once(')').map_or(part, |(_number, rest)| rest)
    })
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Shows help, or what is wrong with the command line in one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain("A verb is missing, such as run: see `runcvm-vmm --help`");
            ExitCode::from(FAILED)
        }
        _ => {
            complain(&usage_sentence(&error.to_string()));
            ExitCode::from(FAILED)
        }
    }
}

/// The first paragraph of clap's message as one line.
fn usage_sentence(message: &str) -> String {
    let paragraph: Vec<_> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let text = paragraph.join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = capitalised(text);
    format!("{text} (see `runcvm-vmm --help`)")
}

/// Says what is to be said about a workload, and gives its exit status.
fn report(outcome: &Outcome) -> ExitCode {
    if let Some(message) = &outcome.message {
        complain(&without_numbers(message));
    }
    if let Some(log) = &outcome.kernel_log {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{log}");
    }
    ExitCode::from(outcome.status)
}

/// The figures of `--timings`.
fn show_timings(outcome: &Outcome) {
    use std::io::Write;
    let Outcome { timings, usage, .. } = outcome;
    let mut text = Timings::to_string(timings);
    if let Some(status) = usage {
        let total: u64 = status.exits.values().sum();
        let mut exits: Vec<_> = status.exits.iter().collect();
        exits.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let exits: Vec<_> = exits.iter().map(|(why, n)| format!("{why} {n}")).collect();
        let kib = status.overhead / 1024;
        text += &format!(
            "memory outside the guest's: {}.{} MiB\n",
            kib / 1024,
            kib % 1024 * 10 / 1024
        );
        text += &format!("exits: {total} ({})\n", exits.join(", "));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests;
