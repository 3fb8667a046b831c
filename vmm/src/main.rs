//! `runcvm-vmm`: boots a directory as a microVM.

fn main() {}
