//! PID 1 of a runcvm guest, and its agent.
//!
//! [`boot`] turns a freshly started kernel into the user's machine; [`workload`] starts what
//! the user wants to run; [`agent`] then serves its streams and those of every further
//! command until the workload ends; [`shutdown`] leaves the filesystems clean and switches
//! the machine off.

#![cfg_attr(not(test), no_main)]

mod agent;
mod boot;
mod bpf;
mod cgroups;
mod clock;
mod connection;
mod events;
mod exit_file;
mod forwards;
mod init_mode;
mod kernel_log;
mod marks;
mod modules;
mod mounts;
mod netlink;
mod network;
mod process;
mod procfs;
mod rootdir;
mod session;
mod shutdown;
mod survive;
mod sysctl;
#[cfg(test)]
mod test_support;
mod users;
mod vsock;
mod workload;

/// The C runtime enters here and not through Rust's own start, which aborts if the standard
/// descriptors are closed and there is no `/dev/null` to open in their place: an initramfs
/// has neither.
#[cfg_attr(not(test), unsafe(export_name = "main"))]
#[cfg_attr(test, expect(dead_code, reason = "the test harness has its own"))]
extern "C" fn start() -> libc::c_int {
    boot::run()
}
