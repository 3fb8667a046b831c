//! `runcvm-runtime`: an OCI runtime that has runc or crun make containers which hold virtual
//! machines.
//!
//! It runs for every docker operation, so it does nothing that it need not: no async
//! runtime, no thread, one `execve` at the end.

mod arguments;
mod attach;
mod config;
mod container;
mod create;
mod debug;
mod delegate;
mod exec;
mod executable;
mod handover;
mod inherited;
mod install;
mod kernel_choice;
mod limits;
mod mountpoints;
mod network;
mod options;
mod pause;
mod report;
mod resources;
mod supervise;
mod update;

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use arguments::{Invocation, Log};

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().skip(1).collect();
    match args.first().and_then(|verb| verb.to_str()) {
        Some(supervise::VERB) => return supervise::run(&args[1..], runcvm_vmm::launch::now()),
        Some(attach::VERB) => return attach::run(),
        Some(mountpoints::VERB) => return mountpoints::tidy(args.get(1)),
        // What the launcher starts is the program that it is part of.
        Some("machine") => {
            let started = runcvm_vmm::launch::now();
            return runcvm_vmm::cli::main(env::args_os(), started);
        }
        Some(verb) if install::is_verb(verb) => return install::run(verb, &args[1..]),
        _ => {}
    }
    match run(&args) {
        Ok(never) => match never {},
        Err(error) => {
            report::error(&Log::of(&args), &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<Infallible> {
    let find = || delegate::find(env::var_os("RUNCVM_OCI_RUNTIME"), env::var_os("PATH"));
    match Invocation::parse(args)? {
        Invocation::Version => {
            println!("runcvm-runtime version {}", env!("CARGO_PKG_VERSION"));
            delegate::exec(&find()?, args)
        }
        Invocation::Help => {
            print!("{HELP}");
            delegate::exec(&find()?, args)
        }
        Invocation::Verb {
            globals,
            verb,
            rest,
        } => match verb.to_str() {
            _ if rest
                .first()
                .is_some_and(|arg| arg == "--help" || arg == "-h") =>
            {
                delegate::exec(&find()?, args)
            }
            Some(verb @ ("create" | "run")) => create::create(&find()?, globals, verb, rest),
            Some("pause") => pause::pause(&find()?, globals, rest, args),
            Some("exec") => exec::exec(&find()?, globals, rest),
            Some("update") => update::update(&find()?, globals, rest),
            _ => delegate::exec(&find()?, args),
        },
    }
}

const HELP: &str = "\
runcvm-runtime runs containers as virtual machines. It is an OCI runtime: docker calls it for
`docker run --runtime=runcvm IMAGE`, once it is among the runtimes of /etc/docker/daemon.json.

   runcvm-runtime install      adds it there, and has docker read that again
   runcvm-runtime uninstall    takes it out again
   runcvm-runtime doctor       looks at this host and says what is missing

What can be set in a container's environment, with --env or in its image:

   RUNCVM_KERNEL=NAME[/VERSION]       the kernel to boot; `runcvm-kernels list` shows them
   RUNCVM_KERNEL_APPEND=TEXT          goes to the end of the kernel's command line
   RUNCVM_KERNEL_DEBUG=1              shows the kernel's log
   RUNCVM_KERNEL_MOUNT_LIB_MODULES=1  mounts the kernel's modules over all of /lib/modules
   RUNCVM_DISKS=SRC,DST,FS[,SIZE];…   makes files of the container disks of the machine
   RUNCVM_DISPLAY_MODE=MODE           headless or serial
   RUNCVM_MEM_SIZE=SIZE               the machine's memory, in place of --memory
   RUNCVM_CGROUPFS=VERSION            none, 1, 2 or hybrid
   RUNCVM_SYS_ADMIN=1                 lets the file server do more
   RUNCVM_HUGETLB=1                   takes memory from the host's huge pages
   RUNCVM_VIRTIOFSD_CACHE=MODE        auto, never or always
   RUNCVM_INIT=1                      makes the command PID 1 of the machine
   RUNCVM_BREAK=prenet,postnet,…      stops for a shell before the machine starts
   RUNCVM_TIMINGS=1                   says at the end when the phases of its life began
   RUNCVM_RUNTIME_DEBUG=1             writes what this runtime does to a file in /tmp

All other verbs are those of runc or crun, whichever is found or named in RUNCVM_OCI_RUNTIME:

";
