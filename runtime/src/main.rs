//! `runcvm-runtime`: an OCI runtime that hands every verb to runc or crun.
//!
//! It runs for every docker operation, so it does nothing that it need not: no async
//! runtime, no thread, one `execve` at the end.

mod arguments;
mod attach;
#[allow(dead_code)]
mod container;
mod delegate;
mod inherited;
#[allow(dead_code)]
mod options;
mod supervise;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use arguments::Invocation;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    match args.first().and_then(|verb| verb.to_str()) {
        Some(supervise::VERB) => return supervise::run(&args[1..], runcvm_vmm::launch::now()),
        Some(attach::VERB) => return attach::run(),
        // What the launcher starts is the program that it is part of.
        Some("machine") => {
            let started = runcvm_vmm::launch::now();
            return runcvm_vmm::cli::main(env::args_os(), started);
        }
        _ => {}
    }
    match run(&args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("runcvm-runtime: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> anyhow::Result<std::convert::Infallible> {
    let invocation = Invocation::parse(args)?;
    if let Invocation::Version = invocation {
        println!("runcvm-runtime version {}", env!("CARGO_PKG_VERSION"));
    }
    let delegate = delegate::find(env::var_os("RUNCVM_OCI_RUNTIME"), env::var_os("PATH"))?;
    delegate::exec(&delegate, args)
}
