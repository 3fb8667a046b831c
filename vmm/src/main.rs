//! `runcvm-vmm`: boots a directory as a microVM.

use std::process::ExitCode;

fn main() -> ExitCode {
    let started = runcvm_vmm::launch::now();
    runcvm_vmm::cli::main(std::env::args_os(), started)
}
