//! Processes of ours that must outlive the workload's.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::kernel_log;
use crate::rootdir::RootDir;

/// Gives this process the name `name`, which begins with `@` and ends with NUL: by the `@`
/// systemd knows a process that it must not kill before the machine is down. `procfs` is the
/// proc filesystem of its PID namespace, by which the kernel is told never to kill it for
/// its memory.
pub(crate) fn to_the_end(name: &'static [u8], procfs: &RootDir) {
    set_name(name);
    let written = procfs
        .open(Path::new("self/oom_score_adj"), OFlag::O_WRONLY)
        .map_err(Into::into)
        .and_then(|file| File::from(file).write_all(b"-1000"));
    if let Err(e) = written {
        kernel_log::error(&format!(
            "cannot protect a process from the OOM killer: {e}"
        ));
    }
}

fn set_name(name: &'static [u8]) {
    // The kernel shows a command line from memory of the process's own making only, not from
    // its program's file.
    let name: &'static [u8] = name.to_vec().leak();
    let start = name.as_ptr() as libc::c_ulong;
    let end = start + name.len() as libc::c_ulong;
    // The start goes first: the new one is below the stack, where both are now.
    let both = [
        (libc::PR_SET_MM_ARG_START, start),
        (libc::PR_SET_MM_ARG_END, end),
    ];
    for (which, address) in both {
        // SAFETY: changes what others read as our command line, which lives forever.
        let done = unsafe { libc::prctl(libc::PR_SET_MM, which, address, 0, 0) };
        if done != 0 {
            kernel_log::error(&format!("cannot rename a process: {}", Errno::last()));
        }
    }
}
