//! `pause`: the runtime freezes the container's control group. With KVM's helper threads in it
//! that never ends on many kernels: such a thread is made in the group of the process that
//! makes a machine, and threads of the kernel do not freeze.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::delegate;

/// Where control groups of version 2 are mounted; those of version 1 freeze without the
/// kernel's threads.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the names of those threads begin with, as far as all kernels show them.
const HELPER: &str = "kvm-nx-lpage-re";

/// `PF_KTHREAD` of linux/sched.h: a thread of the kernel's.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Has `runtime` pause the container, and takes KVM's threads out of its group until it has: one
/// may be made just before all that could make one is frozen.
pub(crate) fn pause(
    runtime: &Path,
    globals: &[OsString],
    rest: &[OsString],
    args: &[OsString],
) -> Result<Infallible> {
    let id = rest.last().and_then(|id| id.to_str());
    let state = id.and_then(|id| delegate::state(runtime, globals, id).ok());
    let Some(group) = state.as_ref().and_then(group_of_running) else {
        return delegate::exec(runtime, args);
    };
    let mut pausing = delegate::start(runtime, args)?;
    let status = loop {
        // If it fails, the runtime says that it could not freeze the group.
        let _ = release(&group).and_then(|moved| if moved { freeze_anew(&group) } else { Ok(()) });
        if let Some(status) = pausing.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(5));
    };
    exit(status.code().unwrap_or(1))
}

/// The group of a container that is neither paused nor ended.
fn group_of_running(state: &Value) -> Option<PathBuf> {
    if state.get("status")? != "running" {
        return None;
    }
    group_of(state.get("pid")?.as_u64()?)
}

/// The directory of the control group of version 2 that a process is in.
fn group_of(pid: u64) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(CGROUPS).join(path))
}

/// Has the kernel look again whether all of `group` is frozen, if it is to be: a thread of the
/// kernel's that leaves the group is no reason for it to look.
fn freeze_anew(group: &Path) -> io::Result<()> {
    let file = group.join("cgroup.freeze");
    if fs::read(&file)?.starts_with(b"1") {
        fs::write(&file, "0")?;
        fs::write(&file, "1")?;
    }
    Ok(())
}

/// Moves KVM's threads from `group` to the root of all groups, and says whether there were any.
fn release(group: &Path) -> io::Result<bool> {
    let mut moved = false;
    for pid in fs::read_to_string(group.join("cgroup.procs"))?.split_whitespace() {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        if is_helper(&String::from_utf8_lossy(&stat)) {
            fs::write(Path::new(CGROUPS).join("cgroup.procs"), pid)?;
            moved = true;
        }
    }
    Ok(moved)
}

/// `stat` (proc_pid_stat(5)) is of one of KVM's threads. A process can have its name, but not
/// its flag.
fn is_helper(stat: &str) -> bool {
    let fields = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'));
    let Some((name, fields)) = fields else {
        return false;
    };
    // State, parent, group, session, terminal and its group come before the flags.
    let flags = fields.split_ascii_whitespace().nth(6);
    let flags = flags.and_then(|flags| flags.parse::<u64>().ok());
    name.starts_with(HELPER) && flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_threads_of_the_kernel_are_moved() {
        let stat = |name: &str, flags: u64| format!("702 ({name}) S 2 0 0 0 -1 {flags} 0 0 0 0");
        assert!(is_helper(&stat("kvm-nx-lpage-re", KERNEL_THREAD | 0x40)));
        assert!(is_helper(&stat("kvm-nx-lpage-recovery-699", KERNEL_THREAD)));
        assert!(!is_helper(&stat("kvm-nx-lpage-re", 0x40)));
        assert!(!is_helper(&stat("kworker/0:1", KERNEL_THREAD)));
        // A name that pretends to be the rest of the line.
        let pretended = format!("kvm-nx-lpage-re) S 2 0 0 0 -1 {KERNEL_THREAD} 0");
        assert!(!is_helper(&stat(&pretended, 0x40)));
        assert!(!is_helper("") && !is_helper("1 (a"));
    }
}
