//! `runcvm-runtime`: an OCI runtime that hands every verb to runc or crun.
//!
//! It runs for every docker operation, so it does nothing that it need not: no async
//! runtime, no thread, one `execve` at the end.

mod arguments;
#[allow(dead_code)]
mod container;
mod delegate;
#[allow(dead_code)]
mod options;

use std::env;
use std::process::ExitCode;

use arguments::Invocation;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("runcvm-runtime: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<std::convert::Infallible> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let invocation = Invocation::parse(&args)?;
    if let Invocation::Version = invocation {
        println!("runcvm-runtime version {}", env!("CARGO_PKG_VERSION"));
    }
    let delegate = delegate::find(env::var_os("RUNCVM_OCI_RUNTIME"), env::var_os("PATH"))?;
    delegate::exec(&delegate, &args)
}
